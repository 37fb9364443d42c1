"""The client's end of single streams, on which a test can say anything."""

import queue

from poseidon_tf.transport.channel import Channel
from poseidon_tf.transport.server import Server

WAIT_S = 20.0  # Far more than anything here takes.


class Heard:
    """What came back on one stream."""

    def __init__(self) -> None:
        self.messages = queue.Queue()
        self._closed = queue.Queue()

    def on_message(self, message) -> None:
        self.messages.put(message)

    def on_closed(self, error) -> None:
        self._closed.put(error)

    def error(self):
        """What the stream ended with."""
        return self._closed.get(timeout=WAIT_S)


class Endpoint:
    """A server of one service, and the streams that a test opens to it; a context manager."""

    def __init__(self, *, max_streams) -> None:
        self.server = Server("127.0.0.1:0", max_streams=max_streams)
        self._channels = []

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *exception) -> None:
        for channel in self._channels:
            channel.close()
        self.server.stop(grace_s=0.0)

    def channel(self):
        self._channels.append(Channel(self.server.address))
        return self._channels[-1]

    def open(self, method, **metadata):
        """A stream, and what is heard on it."""
        heard = Heard()
        metadata = {name: str(value) for name, value in metadata.items()}
        return self.channel().open_stream(method, heard, metadata=metadata), heard

    def refused(self, method, *messages, **metadata):
        """The error with which a stream ends that says `messages`."""
        stream, heard = self.open(method, **metadata)
        for message in messages:
            stream.send(message)
        return heard.error()
