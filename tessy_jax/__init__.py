"""TESSY in JAX: two language models write one training trace together, and the smaller is then trained on it."""
