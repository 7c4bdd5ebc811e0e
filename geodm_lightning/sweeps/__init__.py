"""Searches over settings, in files that wandb reads too."""
