"""The three stages of a run, each resumable and skipped when complete."""
