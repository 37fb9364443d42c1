"""Two ends of a plain TCP connection: how fast the link between two hosts is, both ways at once.

Standard library only.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import threading
import time

from protocol import obey

CONFIG = json.loads(os.environ["TF_CONFIG"])
RANK = int(CONFIG["task"]["index"])
TIMEOUT_S = 60.0
ROUND_TRIPS = 50
PIECE = bytes(1 << 18)


def measure(num_bytes: int) -> dict[str, float]:
    """Seconds of a round trip of one byte, and payload bits a second into this end.

    The first tenth is not counted: a connection begins slowly, and shapers let a burst through.
    """
    with _connected() as peer:
        round_trip_s = _round_trip_s(peer)
        sender = threading.Thread(target=_send, args=(peer, num_bytes))
        sender.start()
        begin_s, came, counted_from = time.perf_counter(), 0, 0
        buffer = bytearray(1 << 18)
        while came < num_bytes:
            got = peer.recv_into(buffer)
            if not got:
                raise RuntimeError(f"the other end has ended after {came} of {num_bytes} bytes")
            came += got
            if not counted_from and came >= num_bytes // 10:
                begin_s, counted_from = time.perf_counter(), came
        seconds = time.perf_counter() - begin_s
        sender.join()
    return {"round_trip_s": round_trip_s, "bits_per_s": (came - counted_from) * 8 / seconds}


def _connected() -> socket.socket:
    host, _, port = CONFIG["cluster"]["worker"][0].rpartition(":")
    if RANK == 0:
        with socket.create_server((host, int(port))) as listener:
            listener.settimeout(TIMEOUT_S)
            peer, _ = listener.accept()
    else:
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            try:
                peer = socket.create_connection((host, int(port)), timeout=TIMEOUT_S)
                break
            except ConnectionRefusedError:  # The other one does not listen yet.
                if time.monotonic() > deadline_s:
                    raise
    peer.settimeout(TIMEOUT_S)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer


def _round_trip_s(peer: socket.socket) -> float:
    """Both ends count: one asks, the other answers, in turns."""
    seconds = []
    for _ in range(ROUND_TRIPS):
        begin_s = time.perf_counter()
        if RANK == 0:
            peer.sendall(b"?")
            peer.recv(1)
        else:
            peer.recv(1)
            peer.sendall(b"!")
        seconds.append(time.perf_counter() - begin_s)
    return statistics.median(seconds)


def _send(peer: socket.socket, num_bytes: int) -> None:
    for _ in range(0, num_bytes, len(PIECE)):
        peer.sendall(PIECE[: min(len(PIECE), num_bytes)])
        num_bytes -= len(PIECE)


obey({"measure": measure})
