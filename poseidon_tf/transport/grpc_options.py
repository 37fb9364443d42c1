"""What gRPC is told of every server and channel, and what they tell each other of a stream.

Settings, with their reasons:
- a message longer than MAX_MESSAGE_BYTES is refused by gRPC before memory is taken for it;
- SO_REUSEPORT is off, or two servers could share one port and split its traffic unnoticed;
- the HTTP proxy of the environment is not used: peers talk to each other directly;
- keepalive finds a peer that vanished without closing its connection. gRPC answers it without the
  interpreter's lock, so a worker that computes for a minute is not taken for dead. A channel asks
  after a sixth of the time and waits for the rest, which is also what TCP waits for an
  acknowledgement. A server waits for two sixths more: it forgets the stream if it gives up first,
  and whoever could connect anew would learn of it up to a sixth later;
- ping_timeout is the same: with keepalive_timeout alone gRPC 1.85 waits a minute for an answer;
- min_reconnect_backoff is how long an attempt to connect may take at least, not the pause after it:
  with less, attempts over a slow line are broken off and begun anew, one after the other;
- every channel has its own connections: gRPC would let equal channels share one.
"""

from __future__ import annotations

from typing import Any

from poseidon_tf.transport.base import MAX_MESSAGE_BYTES
from poseidon_tf.transport.connections import ConnectionSettings

# What a call says about the stream that it belongs to: a number that nobody else has, and whether
# the server must know it.
STREAM_ID, RESUMES = "poseidon-stream", "poseidon-resumes"


def options_of(settings: ConnectionSettings, *, is_server: bool) -> list[tuple[str, Any]]:
    """For `grpc.server` or `grpc.secure_channel`; see above."""
    sixth_ms = settings.keepalive_s * 1000 / 6
    patience_ms = int(sixth_ms * (7 if is_server else 5))
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.so_reuseport", 0),
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 2000),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.keepalive_time_ms", int(sixth_ms)),
        ("grpc.keepalive_timeout_ms", patience_ms),
        ("grpc.http2.ping_timeout_ms", patience_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
        ("grpc.http2.max_ping_strikes", 0),
    ]
