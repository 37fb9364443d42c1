"""What it means how a gRPC call ends: its connection broke, it was refused, or it is in vain."""

from __future__ import annotations

from collections.abc import Iterator

import grpc

from poseidon_tf.errors import ProtocolError
from poseidon_tf.transport import admission
from poseidon_tf.transport.streams import Broken

_REFUSED = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
# What a stream's call ends with when its connection breaks. Whoever cancels it knows that he did.
_BROKEN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
)
_NOBODY_LISTENS = "Connection refused"  # In the details of a call that could not connect.


def incoming(messages: Iterator[bytes], peer: str) -> Iterator[bytes]:
    """What comes in one call; however it ends before its stream is a `Broken`."""
    try:
        yield from messages
    except grpc.RpcError as failure:
        raise _breakage(failure, peer) from failure


def _breakage(failure: grpc.RpcError, peer: str) -> Broken:
    if not hasattr(failure, "code"):  # On the server's side gRPC tells nothing.
        return Broken("it broke")
    code, detail = failure.code(), failure.details() or ""
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return Broken(detail, refusal=admission.stranger(peer))
    if code in _REFUSED:
        return Broken(detail, refusal=ProtocolError(f"{peer} refused: {detail}"))
    return Broken(detail, is_final=code not in _BROKEN or _NOBODY_LISTENS in detail)


def is_broken(failure: grpc.RpcError) -> bool:
    """Whether a call of one question has no answer because of its connection, and might get one.

    Whoever answers may have heard the question.
    """
    details = failure.details() or ""
    return failure.code() is grpc.StatusCode.UNAVAILABLE and _NOBODY_LISTENS not in details
