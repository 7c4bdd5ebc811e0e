"""What is measured against the floor: one module for each kind of work."""
