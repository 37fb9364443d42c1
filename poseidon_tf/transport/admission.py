"""Lets in who knows the job's token, before anything else looks at a call or a stream.

What travels is a digest of the token: of any length it is a line of metadata, and the token itself,
which may have come from elsewhere, stays here. Whoever shows one where none is known is refused
too: so members that were given different settings find out, whichever of them listens.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable, Iterator
from typing import Any, final

import grpc

from poseidon_tf.errors import ConfigError
from poseidon_tf.transport.security import Security

_KEY = "poseidon-token"
_log = logging.getLogger("poseidon_tf")
_REFUSAL = "another job's token, or none"


def shown(security: Security) -> tuple[tuple[str, str], ...]:
    """The metadata that a member shows with every call and stream."""
    return ((_KEY, _digest(security)),) if security.token else ()


def stranger(address: str) -> ConfigError:
    """What a process that was not let in should raise."""
    return ConfigError(
        f"{address} refused this process: {_REFUSAL}; give all members of the job the same token "
        "(POSEIDON_TOKEN, POSEIDON_TOKEN_FILE or Security(token=...)), or none of them"
    )


@final
class Admission(grpc.ServerInterceptor):  # type: ignore[misc]
    """Refuses whoever does not show the token of `security`."""

    def __init__(self, security: Security) -> None:
        self._digest = _digest(security).encode()
        # Of any kind of call: it ends it without waiting for a message, or for a thread to read.
        self._refusal = grpc.stream_stream_rpc_method_handler(_refuse)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """The method's handler for a member, a refusal for a stranger."""
        digests = [v for k, v in handler_call_details.invocation_metadata if k == _KEY]
        # In the same time whatever is shown: how much of it is right is not to be learnt.
        digest = b"".join(map(_bytes_of, digests))  # Of more than one: another's.
        if hmac.compare_digest(digest, self._digest):
            return continuation(handler_call_details)
        return self._refusal


def _refuse(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    _log.debug("refused %s: %s", context.peer(), _REFUSAL)
    context.abort(grpc.StatusCode.UNAUTHENTICATED, _REFUSAL)
    yield b""  # abort() raises; this line makes it the generator that gRPC wants.


def _digest(security: Security) -> str:
    if not security.token:
        return ""
    secret = security.token.strip().encode()
    return hashlib.sha256(b"poseidon_tf job token\0" + secret).hexdigest()


def _bytes_of(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
