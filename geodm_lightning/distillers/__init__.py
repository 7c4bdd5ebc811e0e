"""Lightning modules that make a distilled set."""
