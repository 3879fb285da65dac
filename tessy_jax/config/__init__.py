"""What a user can say: `schema` loads it, `sections` and `training` are shared, each command has a file of its own."""
