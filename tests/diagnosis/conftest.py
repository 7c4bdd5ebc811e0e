"""The spaces whose points the measures are tried on are those of the geometry's tests."""

from tests.geometry.conftest import build, draw, dtype

__all__ = ["build", "draw", "dtype"]
