"""What tests of the C kernels need: a compiler, and something to convolve."""

import pytest
import torch

from geodm_lightning.native import library

needs_kernels = pytest.mark.skipif(
    library.obstacle() is not None, reason=f"no C kernels: {library.obstacle()}"
)


def draw(rng, shape):
    """Draw maps, kernels and constants of a shape: n, channels in and out, h, w, padding."""
    n, inputs, outputs, height, width, _ = shape
    sizes = [(n, inputs, height, width), (outputs, inputs, 3, 3), (outputs,)]
    return [torch.randn(size, generator=rng).requires_grad_() for size in sizes]
