"""What tests of the C kernels need: a compiler."""

import pytest

from geodm_lightning.native import library

needs_kernels = pytest.mark.skipif(
    library.obstacle() is not None, reason=f"no C kernels: {library.obstacle()}"
)
