"""Images ↔ noise: a diffusion model, its noise schedule and its sampler."""
