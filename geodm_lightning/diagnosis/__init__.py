"""Features → what space they look like: measures, controls, a proposal."""
