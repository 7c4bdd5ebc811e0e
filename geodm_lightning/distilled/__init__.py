"""The product: a distilled set and its format."""
