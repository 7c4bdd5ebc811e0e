"""A distilled set to a result."""
