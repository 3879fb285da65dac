"""What a configuration needs of a machine, found by compiling its programs from shapes: `python -m tessy_jax.plan`."""
