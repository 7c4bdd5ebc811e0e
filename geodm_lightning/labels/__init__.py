"""Soft labels: teachers, their agreement with the data, and the store of what they say."""
