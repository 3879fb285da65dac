"""Benchmarks: their problems, the judges of answers, and the scores. Nothing here imports JAX."""
