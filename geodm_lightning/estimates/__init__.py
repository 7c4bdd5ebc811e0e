"""What a run will take, before hours are spent."""
