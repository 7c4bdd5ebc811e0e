"""The tables of papers: what they hold, the runs behind, what those gave."""
