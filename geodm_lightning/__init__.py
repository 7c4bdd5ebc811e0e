"""Geometry-aware dataset distillation on PyTorch Lightning."""

__version__ = "0.1.0"
