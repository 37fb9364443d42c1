"""Asks the C library to keep freed memory for the next step instead of giving it back.

Every step frees and takes the same large buffers. By default glibc maps each one anew, and the
kernel clears every page of it again: with a model of 80 MB on two workers that was a third of a
step in which the servers carried everything.

Nor does it need an arena for each of many threads, every one of which would keep its highest mark:
there is one for each core, where glibc would make eight.
"""

from __future__ import annotations

import ctypes
import logging
import os

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_LARGEST_INT = 2**31 - 1
_TOP_PAD_BYTES = 64 * 1024 * 1024

_log = logging.getLogger("poseidon_tf")


def keep_freed_memory() -> bool:
    """Set it for this process; False where the C library is not glibc, or refuses.

    The process's memory then stays at its highest mark until it ends.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018 - other libraries' mallopt differs.
    except (AttributeError, OSError, TypeError):
        return False
    settings = (
        (_M_MMAP_THRESHOLD, _LARGEST_INT),
        (_M_TRIM_THRESHOLD, _LARGEST_INT),
        (_M_TOP_PAD, _TOP_PAD_BYTES),
        (_M_ARENA_MAX, max(2, os.cpu_count() or 1)),
    )
    # mallopt answers 1 for yes.
    is_set = all(mallopt(parameter, value) == 1 for parameter, value in settings)
    if not is_set:
        _log.debug("the C library does not keep freed memory")
    return is_set
