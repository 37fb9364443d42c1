"""Joins with a server of its own: `own_server.py address rank port`.

The server of that rank may only have that port. Every worker tells the test at `address` when it is
about to join, and waits for its answer.
"""

import json
import os
import socket
import sys
import time

from report import result

import poseidon_tf

host, port_of_test = sys.argv[1].split(":")
rank, port = map(int, sys.argv[2:])
is_it = json.loads(os.environ["TF_CONFIG"])["task"]["index"] == rank
strategy = poseidon_tf.PoseidonStrategy  # Imports what joining needs.
with socket.create_connection((host, int(port_of_test))) as test:
    test.recv(1)
try:
    strategy(
        ports=(port, port) if is_it else None,
        deadlines=poseidon_tf.Deadlines(start_s=90.0),
    )
except poseidon_tf.PoseidonError as error:
    result("error", [type(error).__name__, str(error)])
    result("failed_at_s", time.monotonic())
    raise
