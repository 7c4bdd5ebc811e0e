"""Kernels of a CPU in C, compiled where they are first needed."""
