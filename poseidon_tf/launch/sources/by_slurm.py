"""Asks Slurm itself where a node is."""

from __future__ import annotations

import logging
import re
import socket
import subprocess

_log = logging.getLogger("poseidon_tf")
_PATIENCE_S = 10.0
_ADDRESS = re.compile(r"\bNodeAddr=(\S+)")


def host_of(node: str) -> str:
    """The host that has the name `node` in Slurm's configuration.

    That is its name in most clusters. Where no such host is known here, it is the address on which
    Slurm's own daemons reach the node (NodeAddr), and the name again where Slurm cannot be asked:
    it may become known later.
    """
    try:
        socket.getaddrinfo(node, None)
        return node
    except socket.gaierror:
        pass  # A name in Slurm only, or not known yet.
    command = ["scontrol", "--oneliner", "show", "node", node]
    try:
        shown = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=True,
        ).stdout
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip() or error.stdout.strip() or f"exit code {error.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    else:
        if found := _ADDRESS.search(shown):
            return found.group(1)
        reason = f"it prints {shown.strip()!r}"
    _log.warning(
        "no host named %s, a node of Slurm, is known here, and '%s' does not tell its address: %s",
        node,
        " ".join(command),
        reason,
    )
    return node
