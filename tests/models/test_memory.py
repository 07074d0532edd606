"""Keeping freed memory is a hint to the C library, and works or not without an error."""

import subprocess
import sys

import pytest

from busfast.models.memory import ARENAS, keep_freed_memory

COUNT_ARENAS = """
import ctypes, sys, tempfile, threading
from busfast.models.memory import keep_freed_memory

if not keep_freed_memory():
    sys.exit("not glibc")
together = threading.Barrier(6)

def allocate():
    together.wait()
    bytearray(1 << 20)
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as named:
    file = ctypes.c_void_p(libc.fopen(named.name.encode(), b"w"))
    libc.malloc_info(0, file)
    libc.fclose(file)
    print(named.read().count(b"<heap nr="))
"""


def test_keeping_freed_memory_never_fails():
    assert keep_freed_memory() in (True, False)


def test_threads_share_the_memory_that_is_kept():
    done = subprocess.run([sys.executable, "-c", COUNT_ARENAS], capture_output=True, text=True)
    if "not glibc" in done.stderr:
        pytest.skip("the C library is not glibc")
    assert int(done.stdout) <= ARENAS
