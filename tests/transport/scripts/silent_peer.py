"""One end of a stream that falls silent when it is told to: `silent_peer.py role address how`.

It says READY once the stream is open. At the first line of its input it stops itself
("SIGSTOP"), or holds the interpreter's lock in C code for the seconds that `how` names and then
says AWAKE. It ends when the stream does.
"""

import ctypes
import os
import queue
import signal
import sys

from poseidon_tf.transport.channel import Channel
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.transport.server import Server

role, address, keepalive_s, how = sys.argv[1:]
settings = ConnectionSettings(keepalive_s=float(keepalive_s))
heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()


class Receiver:
    def on_message(self, message: bytes) -> None:
        heard.put(message)

    def on_closed(self, error: Exception | None) -> None:
        os._exit(0)


def accept(stream: object) -> Receiver:
    return Receiver()


if role == "server":
    server = Server(address, max_streams=1, settings=settings)
    server.add_stream("/Test/Talk", accept)
    server.start()
else:
    channel = Channel(address, settings=settings)
    stream = channel.open_stream("/Test/Talk", Receiver())
    stream.send(b"hello")
heard.get()
print("READY", flush=True)
sys.stdin.readline()
if how == "SIGSTOP":
    os.kill(os.getpid(), signal.SIGSTOP)
else:
    ctypes.PyDLL(None).sleep(int(how))  # PyDLL keeps the lock, unlike CDLL.
print("AWAKE", flush=True)
sys.stdin.readline()
