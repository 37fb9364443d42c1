"""Freed memory is kept for the next step."""

import subprocess
import sys

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


def test_a_block_that_was_freed_is_used_again_without_page_faults():
    """By default each large block is mapped anew; kept memory costs the kernel nothing."""
    assert second_touch("keep") < 100
    assert second_touch() >= 64 * 1024 * 1024 // (2 * 1024 * 1024)
