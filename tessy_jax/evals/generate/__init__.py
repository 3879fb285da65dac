"""Where responses come from: a model on our engine, a server, or a file."""
