"""What the paper compares its method with (Table 1), on the same engine: docs/methods.md."""
