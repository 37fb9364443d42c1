"""How a script of a test job goes to the host that the test has chosen for it."""

import ctypes
import os


def go_to_host() -> None:
    """Enter the network namespace that TEST_NAMESPACE names, if it names one.

    Before any other thread is there: it counts for this one, and for those that it starts.
    """
    name = os.environ.get("TEST_NAMESPACE")
    if not name:
        return
    descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, 0) != 0:
        raise OSError(ctypes.get_errno(), f"setns to {name}")
    os.close(descriptor)
