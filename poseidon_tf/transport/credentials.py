"""TLS as gRPC wants it: credentials of both ends, and what its failures mean."""

from __future__ import annotations

from typing import Any

import grpc

from poseidon_tf.transport.security import Security, read_pem

# What gRPC says when a handshake failed, and what it means. Trying again will not mend these.
_FATAL = {
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not signed by this process's ca, or not valid "
    "now",
    "Hostname Verification Check failed": "its certificate is for another host",
    "is not in peer certificate": "its certificate is for another host",  # gRPC before 1.7x.
    "WRONG_VERSION_NUMBER": "it does not speak TLS, and this process does",
}
# What the one end sees when the other has had enough: it may also just be ending.
_HUNG_UP = "Socket closed"


def server_credentials(security: Security) -> grpc.ServerCredentials | None:
    """What a server shows and asks for; None without TLS.

    Raises:
      ConfigError: a file cannot be read.
    """
    if not security.is_tls:
        return None
    ca, certificate, key = _files(security)
    return grpc.ssl_server_credentials(
        [(key, certificate)],
        root_certificates=ca if security.mutual else None,
        require_client_auth=security.mutual,
    )


def add_port(server: grpc.Server, address: str, own: grpc.ServerCredentials | None) -> int:
    """Have `server` listen on `address`, encrypted with credentials; the port, 0 if it cannot."""
    if own is None:
        return int(server.add_insecure_port(address))
    return int(server.add_secure_port(address, own))


def open_channel(address: str, security: Security, options: list[tuple[str, Any]]) -> grpc.Channel:
    """A channel to `address`, encrypted if `security` says so.

    Raises:
      ConfigError: a file cannot be read.
    """
    if not security.is_tls:
        return grpc.insecure_channel(address, options=options)
    ca, certificate, key = _files(security)
    own = {"private_key": key, "certificate_chain": certificate} if security.mutual else {}
    if security.server_name:
        options = [*options, ("grpc.ssl_target_name_override", security.server_name)]
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, **own), options=options)


def handshake_failure(details: str) -> str:
    """Why no connection to a peer can be made, ever, if gRPC's `details` say that; else empty."""
    return next((meaning for sign, meaning in _FATAL.items() if sign in details), "")


def with_hint(details: str, security: Security) -> str:
    """gRPC's `details` of a failed connection, and what may be behind them."""
    details = details.rpartition("last error: ")[2]
    if _HUNG_UP not in details:
        return details
    guess = "refuse this process's certificate" if security.is_tls else "want TLS"
    return f"{details}: it closed the connection at once; it may {guess}"


def _files(security: Security) -> tuple[bytes, bytes, bytes]:
    assert security.ca and security.certificate and security.key
    return (
        read_pem("ca", security.ca),
        read_pem("certificate", security.certificate),
        read_pem("key", security.key),
    )
