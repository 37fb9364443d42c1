"""The client's end of single streams, on which a test can say anything."""

import queue
from typing import Any, TypeVar

from poseidon_tf.transport.channel import Channel
from poseidon_tf.transport.server import Server
from poseidon_tf.transport.streams import Stream

WAIT_S = 20.0  # Far more than anything here takes.

AnyEndpoint = TypeVar("AnyEndpoint", bound="Endpoint")


class Heard:
    """What came back on one stream."""

    def __init__(self) -> None:
        self.messages: queue.Queue[bytes] = queue.Queue()
        self._closed: queue.Queue[Exception | None] = queue.Queue()

    def on_message(self, message: bytes) -> None:
        self.messages.put(message)

    def on_closed(self, error: Exception | None) -> None:
        self._closed.put(error)

    def error(self) -> Any:
        """What the stream ended with."""
        return self._closed.get(timeout=WAIT_S)


class Endpoint:
    """A server of one service, and the streams that a test opens to it; a context manager."""

    def __init__(self, *, max_streams: int) -> None:
        self.server = Server("127.0.0.1:0", max_streams=max_streams)
        self._channels: list[Channel] = []

    def __enter__(self: AnyEndpoint) -> AnyEndpoint:
        self.server.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for channel in self._channels:
            channel.close()
        self.server.stop(grace_s=0.0)

    def channel(self) -> Channel:
        self._channels.append(Channel(self.server.address))
        return self._channels[-1]

    def open(self, method: str, **metadata: object) -> tuple[Stream, Heard]:
        """A stream, and what is heard on it."""
        heard = Heard()
        texts = {name: str(value) for name, value in metadata.items()}
        return self.channel().open_stream(method, heard, metadata=texts), heard

    def refused(self, method: str, *messages: bytes, **metadata: object) -> Any:
        """The error with which a stream ends that says `messages`."""
        stream, heard = self.open(method, **metadata)
        for message in messages:
            stream.send(message)
        return heard.error()
