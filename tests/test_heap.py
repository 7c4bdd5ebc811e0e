"""Freed memory is kept for speed, unless addresses are limited: then nothing may stay in pieces."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told what to do")

# Two blocks below 32 MB, each larger than the one before, beside small ones that stay.
PROGRAM = """
import ctypes, resource, sys
from geodm_lightning.heap import set_up_heap

def size():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

if sys.argv[1] == "limited":
    resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
set_up_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
libc.free.argtypes = (ctypes.c_void_p,)
before = size()
for megabytes in (8, 16, 24):
    large, small = libc.malloc(megabytes * 2**20), libc.malloc(1000)
    libc.free(large)
print((size() - before) // 2**20)
"""


def kept(limit: str) -> int:
    command = [sys.executable, "-c", PROGRAM, limit]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return int(told.stdout)


def test_large_blocks_are_given_back_where_addresses_are_limited():
    assert kept("limited") == 0
    assert kept("free") >= 8
