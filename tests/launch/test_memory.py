"""Freed memory is kept for the next step."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes

FAULTS = """
import resource, sys
from poseidon_tf.launch.memory import keep_freed_memory
if "keep" in sys.argv:
    assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(64 * 1024 * 1024)
    block[::4096] = b"x" * (len(block) // 4096)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def second_touch(*args: str) -> int:
    """Page faults of a second block of 64 MiB, taken after the first was freed."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, *args], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_a_block_that_was_freed_is_used_again_without_page_faults() -> None:
    """By default each large block is mapped anew; kept memory costs the kernel nothing."""
    assert second_touch("keep") < 100
    assert second_touch() >= 64 * 1024 * 1024 // (2 * 1024 * 1024)


ARENAS = """
import ctypes, os, sys, threading
from poseidon_tf.launch.memory import keep_freed_memory
if "keep" in sys.argv:
    assert keep_freed_memory()
barrier = threading.Barrier(4 * os.cpu_count() + 8, timeout=60)
def allocate():
    barrier.wait()  # All are alive at once: an arena that nobody uses is taken over.
    blocks.append(bytes(4096))
    barrier.wait()
blocks = []
threads = [threading.Thread(target=allocate) for _ in range(barrier.parties)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
print(max(2, os.cpu_count()))
"""


def arenas(*args: str) -> tuple[int, int]:
    """Arenas that many threads at once have made, and as many as there should be at most."""
    done = subprocess.run(
        [sys.executable, "-c", ARENAS, *args], capture_output=True, text=True, check=True
    )
    return done.stdout.count("<heap nr="), int(done.stdout.split()[-1])


def test_threads_share_an_arena_for_each_core() -> None:
    """By default there would be eight, each of which keeps the most that it ever held."""
    made, most = arenas("keep")
    assert made <= most
    assert arenas()[0] > most
