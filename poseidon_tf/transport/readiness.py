"""Whether anybody answers at the other end of a channel, and if nobody does, why."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import grpc

from poseidon_tf.errors import ConfigError
from poseidon_tf.transport import admission, credentials
from poseidon_tf.transport.security import Security

_READY = "/poseidon_tf.Ready/Ready"  # Nobody serves it, and every server says so.
# Between two looks at why there is no connection yet; each time twice as long, up to the second
# number, as an answer over a long or a crowded line may take as long itself.
_LOOK_S, _LONGEST_LOOK_S = 0.5, 8.0
_LEAST_LOOK_S = 0.05  # So that even who has no time learns of a port that is closed.
_NO_ANSWER = (
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
)


def wait_ready(
    channel: grpc.Channel,
    address: str,
    security: Security,
    *,
    timeout_s: float,
    ended: Sequence[threading.Event],
) -> str | None:
    """Wait until the other side answers: None; at the deadline, what gRPC last said.

    Args:
      ended: any of them ends the wait as the deadline does; the first is set before `channel` is
        closed.

    Raises:
      ConfigError: it answers that this process is of another job, or the two can make no
        connection: its certificate is wrong, or it does not speak TLS.
    """
    # Any answer will do. Whoever watches the channel's state instead leaves a thread of gRPC's
    # behind, which prints a traceback when the channel is closed soon after.
    deadline_s = time.monotonic() + timeout_s
    reason, look_s = "", _LOOK_S
    while True:
        # Who waits for a connection is not told what is wrong with it; who does not wait is.
        for is_waiting, least_s in ((False, _LEAST_LOOK_S), (True, 0.0)):
            left_s = max(least_s, deadline_s - time.monotonic())
            said = _ask(channel, address, security, min(left_s, look_s), is_waiting, ended[0])
            if said is None:
                return None
            reason = said or reason
        if any(each.is_set() for each in ended) or time.monotonic() >= deadline_s:
            return reason
        look_s = min(2.0 * look_s, _LONGEST_LOOK_S)


def _ask(
    channel: grpc.Channel,
    address: str,
    security: Security,
    patience_s: float,
    is_waiting: bool,
    closed: threading.Event,
) -> str | None:
    try:
        channel.unary_unary(_READY)(
            b"",
            timeout=patience_s,
            wait_for_ready=is_waiting,
            metadata=admission.shown(security),
        )
    except grpc.RpcError as failure:
        code, details = failure.code(), failure.details() or ""
        if code is grpc.StatusCode.UNAUTHENTICATED:
            raise admission.stranger(address) from failure
        if fatal := credentials.handshake_failure(details):
            raise ConfigError(f"no connection to {address}: {fatal} ({details})") from failure
        if code is grpc.StatusCode.UNAVAILABLE:
            return credentials.with_hint(details, security)
        return "" if code in _NO_ANSWER else None
    except ValueError:  # That is how gRPC says that the channel is closed.
        if not closed.is_set():
            raise
        return ""
    return None
