"""Real images in."""
