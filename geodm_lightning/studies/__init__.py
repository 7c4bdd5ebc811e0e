"""Many runs: search spaces, the tables of papers, what they will cost."""
