"""What glibc does with memory that was freed; nothing here does anything under another library."""

from __future__ import annotations

import ctypes
import resource

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # parameters of mallopt
LARGE = 2**20  # bytes from which a block is given back by itself


class HeapInformation(ctypes.Structure):
    """``struct mallinfo2`` of glibc 2.33 and later."""

    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]


def set_up_heap() -> None:
    """Keep freed memory for speed, or give it back where addresses are limited."""
    if has_limited_addresses():
        give_back_freed_memory()
    else:
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory for the next step instead of giving it back.

    A training step frees and takes the same few hundred megabytes again; returning them to
    the kernel each time costs page faults that can double the time of a step on a CPU. What is
    freed falls into pieces: the heap grows to 1.8 times what its tensors take.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(MMAP_MAX, 0)  # large tensors too come from the heap that is kept


def give_back_freed_memory() -> None:
    """Ask glibc to give back every large block once it is freed, so that none is in pieces.

    By itself it does so at first only: each block given back raises the size from which the next
    one is, up to 32 MB.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(MMAP_THRESHOLD, LARGE)


def has_limited_addresses() -> bool:
    """Whether a limit is set on the addresses of this process, as ``ulimit -v`` does."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def reusable_bytes() -> int:
    """Return the freed memory that glibc has kept for this process; 0 under another C library."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return 0
    libc.mallinfo2.restype = HeapInformation
    return int(libc.mallinfo2().fordblks)
