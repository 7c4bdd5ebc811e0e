"""Real and synthetic features to loss terms."""
