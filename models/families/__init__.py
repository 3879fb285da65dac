"""One file per family: its config, and what only its layers have. Each says where its forward pass is."""
