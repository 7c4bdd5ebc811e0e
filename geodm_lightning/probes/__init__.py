"""A few timed steps of what a run does, and the memory they take."""
