"""What a set is like beside its accuracy: robust scores, coverage, memory, calibration."""
