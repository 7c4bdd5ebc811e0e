"""Costs to plans and values."""
