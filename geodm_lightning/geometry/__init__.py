"""Features to points and costs."""
