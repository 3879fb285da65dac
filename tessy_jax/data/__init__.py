"""What is read and written: problems, records, annotated segments, and the directories of runs. No JAX."""
