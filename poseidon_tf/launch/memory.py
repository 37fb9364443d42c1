"""Asks the C library to keep freed memory for the next step instead of giving it back.

Every step frees and takes the same large buffers. By default glibc maps each one anew, and the
kernel clears every page of it again: with a model of 80 MB on two workers that was a third of a
step in which the servers carried everything.
"""

from __future__ import annotations

import ctypes
import logging

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
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
    )
    # mallopt answers 1 for yes.
    is_set = all(mallopt(parameter, value) == 1 for parameter, value in settings)
    if not is_set:
        _log.debug("the C library does not keep freed memory")
    return is_set
