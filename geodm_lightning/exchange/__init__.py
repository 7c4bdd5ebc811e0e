"""Distilled sets in and out: the formats of other frameworks, read safely, written exactly."""
