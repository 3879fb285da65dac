"""What decides whether an answer is right: programs against tests, mathematics, choices."""
