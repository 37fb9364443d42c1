"""A worker's two ends of sufficient factor broadcasting: takes its peers' factors, sends its own.

Decides under a lock, acts outside it. The bytes of a broadcast are joined once and shared by the
streams to all peers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import final

from poseidon_tf.errors import MemberError, ProtocolError
from poseidon_tf.sfb.exchange import CompleteSet, Deserted, FactorExchange
from poseidon_tf.sfb.factors import RowSpec
from poseidon_tf.transport.base import Traffic
from poseidon_tf.transport.channel import Channel
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.transport.frame_queue import FrameQueue
from poseidon_tf.transport.server import Server
from poseidon_tf.transport.streams import Stream
from poseidon_tf.wire import frames, identities
from poseidon_tf.wire.frame_pb2 import FrameHeader, Part

BROADCAST = "/poseidon_tf.FactorPeer/Broadcast"
# Factors longer than this are cut, so that what is more urgent need not wait for all of them.
CHUNK_BYTES = 1024 * 1024


@final
class FactorService:
    """Everything that worker `rank` sends to and hears from its peers.

    Args:
      server: this worker's transport server, not started yet.
      identity: this worker's; who means another one is refused.
      on_complete: hears of every complete set, on a reading thread; must not block.
      on_lost: hears, with the peer's rank, of a broken stream, a refusal, or a peer that left
        too early.

    Attributes:
      on_piece: hears, with the peer's rank and the key, of every piece that has come; must not
        block.
    """

    def __init__(
        self,
        server: Server,
        *,
        num_workers: int,
        rank: int,
        identity: str = "",
        on_complete: Callable[[CompleteSet], None],
        on_lost: Callable[[int, Exception], None],
    ) -> None:
        self._identity = identity
        self._exchange = FactorExchange(num_workers=num_workers, rank=rank)
        self._num_workers, self._rank = num_workers, rank
        self._on_complete, self._on_lost = on_complete, on_lost
        self.on_piece: Callable[[int, int], None] = lambda rank, key: None
        self._lock = threading.Lock()
        self._connected: set[int] = set()
        self._incoming: dict[int, Stream] = {}  # By rank, also one that has ended.
        self._channels: list[Channel] = []
        self._queues: list[FrameQueue] = []
        self._streams: list[Stream] = []
        server.add_stream(BROADCAST, self._accept, with_lanes=True)

    @staticmethod
    def streams_needed(num_workers: int) -> int:
        """How many streams stay open here, each of which holds a thread."""
        return num_workers - 1

    def connect(
        self,
        addresses: Mapping[int, str],
        *,
        settings: ConnectionSettings,
        timeout_s: float,
        identities_of: Mapping[int, str] | None = None,
        over: threading.Event | None = None,
    ) -> None:
        """Open a stream to every peer.

        Args:
          over: ends the wait for a peer; see `Channel.reach`.
          addresses: by rank; this worker's own is passed over.
          identities_of: by rank, which process is meant at its address.

        Raises:
          StartTimeout: a peer did not answer in `timeout_s` seconds.
          ConfigError: a peer has another token, or its certificate is wrong.
        """
        meant = identities_of or {}
        peers = {rank: addresses[rank] for rank in sorted(addresses) if rank != self._rank}
        for rank, address in peers.items():
            channel, queue = Channel(address, settings=settings), FrameQueue()
            self._channels.append(channel)
            self._queues.append(queue)
            self._streams.append(
                channel.open_stream(
                    BROADCAST,
                    _RefusalReceiver(rank, self._on_lost),
                    metadata={identities.TO: meant.get(rank, ""), "rank": str(self._rank)},
                    outgoing=queue,
                    with_lane=True,
                )
            )
        for rank, channel in zip(peers, self._channels, strict=True):  # All have begun to connect.
            channel.reach(f"worker rank {rank}", timeout_s=timeout_s, over=over)

    def register(self, key: int, spec: RowSpec, first_step: int = 0) -> None:
        """Expect the factors of one kernel, from that step on.

        Done on all workers before any of them sends.
        """
        with self._lock:
            self._exchange.register(key, spec, first_step)

    def broadcast(
        self, key: int, step: int, rows: int, packed: bytes, *, priority: int = 0
    ) -> None:
        """Send this worker's factors to every peer, and count them as arrived here.

        Args:
          priority: of the key, the same in every step; see `FrameQueue`.
        """
        view = memoryview(packed)
        for offset, piece in frames.cut(view, chunk_bytes=CHUNK_BYTES):
            part = Part(
                key=key,
                step=step,
                rows=rows,
                offset=offset,
                total=len(view),
                length=len(piece),
            )
            message = frames.message(FrameHeader(parts=[part]), [piece])
            for queue in self._queues:
                queue.put_frame(message, step=step, priority=priority)
        with self._lock:
            outcomes = self._exchange.add_own(key, step, rows, packed)
        self._act(outcomes)

    def round_trips_s(
        self, *, timeout_s: float, over: threading.Event | None = None
    ) -> dict[int, float]:
        """By rank, how long each peer takes to answer a question, one after the other.

        Args:
          over: as for `connect`.

        Raises:
          StartTimeout, ConfigError: as `connect`.
        """
        peers = [rank for rank in range(self._num_workers) if rank != self._rank]
        return {
            rank: channel.round_trip_s(f"worker rank {rank}", timeout_s=timeout_s, over=over)
            for rank, channel in zip(peers, self._channels, strict=True)
        }

    def missing(self) -> list[tuple[str, int, list[int]]]:
        """Per incomplete set: the variable, the step, and the ranks waited for."""
        with self._lock:
            return self._exchange.missing()

    def traffic(self) -> list[Traffic]:
        """Bytes and messages of each stream, both directions."""
        with self._lock:
            return [stream.traffic for stream in (*self._streams, *self._incoming.values())]

    def leave(self, last_step: int) -> None:
        """Say goodbye to every peer and send nothing more."""
        for queue in self._queues:
            queue.finish(frames.goodbye(last_step))

    def close(self, *, timeout_s: float) -> None:
        """Wait up to `timeout_s` seconds for the streams to end, then cut them."""
        for stream in self._streams:
            stream.close()
        for stream in self._streams:
            stream.wait_ended(timeout_s=timeout_s)
        for channel in self._channels:
            channel.close()

    def _accept(self, stream: Stream) -> _PeerStream:
        identities.check_stream(stream.metadata, self._identity, f"worker rank {self._rank}")
        try:
            rank = int(stream.metadata["rank"])
        except (KeyError, ValueError):
            raise ProtocolError("a stream without a rank") from None
        if not 0 <= rank < self._num_workers or rank == self._rank:
            raise ProtocolError(f"a stream of rank {rank} to rank {self._rank}")
        with self._lock:
            if rank in self._connected:
                raise ProtocolError(f"a stream of rank {rank} is open already")
            self._connected.add(rank)
            self._incoming[rank] = stream
        return _PeerStream(self, stream, rank)

    def take(self, rank: int, part: Part, piece: memoryview) -> None:
        """One piece of the factors of `rank`."""
        with self._lock:
            outcomes = self._exchange.add(
                rank, part.key, part.step, part.rows, part.offset, part.total, piece
            )
        self.on_piece(rank, part.key)
        self._act(outcomes)

    def left(self, rank: int, last_step: int) -> None:
        """`rank` has said goodbye."""
        with self._lock:
            outcomes = self._exchange.leave(rank, last_step)
        self._act(outcomes)

    def closed(self, rank: int, error: Exception | None) -> None:
        """The stream of peer `rank` has ended; whether the peer is lost is for others to say."""
        with self._lock:
            self._connected.discard(rank)
            self._exchange.drop_pieces(rank)
        if error is not None:
            self._on_lost(rank, error)

    def _act(self, outcomes: list[CompleteSet | Deserted]) -> None:
        for outcome in outcomes:
            match outcome:
                case CompleteSet():
                    self._on_complete(outcome)
                case Deserted(rank, reason):
                    self._on_lost(rank, MemberError(reason))


@final
class _PeerStream:
    """Receives the stream of one peer."""

    def __init__(self, service: FactorService, stream: Stream, rank: int) -> None:
        self._service, self._stream, self._rank = service, stream, rank

    def on_message(self, message: frames.Message) -> None:
        header, pieces = frames.decode(message)
        for part, piece in zip(header.parts, pieces, strict=True):
            self._service.take(self._rank, part, piece)
        if header.HasField("goodbye"):
            self._service.left(self._rank, header.goodbye.last_step)

    def on_closed(self, error: Exception | None) -> None:
        self._service.closed(self._rank, error)
        self._stream.close()


@final
class _RefusalReceiver:
    """Hears what comes back on a sending stream: nothing, or a refusal."""

    def __init__(self, rank: int, on_lost: Callable[[int, Exception], None]) -> None:
        self._rank, self._on_lost = rank, on_lost

    def on_message(self, message: frames.Message) -> None:
        header, _ = frames.decode(message)
        if header.refusal:
            raise MemberError(header.refusal)

    def on_closed(self, error: Exception | None) -> None:
        if error is not None:
            self._on_lost(self._rank, error)
