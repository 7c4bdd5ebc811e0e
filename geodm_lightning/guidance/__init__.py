"""What pushes a sample while it is denoised: gradients of transport, deviation and influence."""
