"""Shows what the members of a local job print: whole lines, each led by its member's name.

This file does not know what a job is; it copies pipes until it is told to stop.
"""

import math
import os
import re
import selectors
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import IO, TextIO, final

from poseidon_tf.launcher import threads

_DRAIN_S = 2.0  # For a descendant that left its group and still holds a member's pipe.
_MAX_LINE_BYTES = 1 << 16


@final
class MemberOutput:
    """Copies what the members print, in whole lines, on a thread of its own."""

    def __init__(self, stdout: TextIO, stderr: TextIO, on_cut_off: Callable[[], None]) -> None:
        self._stdout, self._stderr, self._on_cut_off = stdout, stderr, on_cut_off
        self._lock = threading.Lock()
        self._is_cut_off = False
        self._last_errors: dict[str, str] = {}
        self._selector = selectors.DefaultSelector()
        self._pipes: list[IO[bytes]] = []
        end_fd, self._end_fd = os.pipe()
        self._end_pipe = open(end_fd, "rb", buffering=0)
        self._selector.register(self._end_pipe, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._copy, name="copy output")

    def follow(self, process: subprocess.Popen[bytes], label: str) -> None:
        """Copy what `process` prints, each line led by `label`."""
        emits = (partial(self._write, self._stdout, label), partial(self._write_error, label))
        for pipe, emit in zip((process.stdout, process.stderr), emits, strict=True):
            assert pipe is not None
            self._pipes.append(pipe)
            self._selector.register(pipe, selectors.EVENT_READ, Lines(emit))

    def start(self) -> None:
        """Begin to copy."""
        threads.start(self._thread)

    def say(self, text: str) -> None:
        """Print a line of the launcher's own."""
        self._write(self._stderr, "poseidon-tf", text)

    def say_cause(self, lines: Sequence[str]) -> None:
        """Print why the job has failed, as one block; nothing if `lines` is empty."""
        for at, line in enumerate(lines):
            self.say(f"  {line}" if at else f"the job failed: {line}")

    def last_error(self, label: str) -> str:
        """The last line that the member `label` has written to stderr, if any."""
        return self._last_errors.get(label, "")

    def close(self) -> None:
        """Copy what is still in the pipes, for a moment at most, and end the thread."""
        os.close(self._end_fd)
        if self._thread.ident is not None:
            self._thread.join()
        self._selector.close()
        for pipe in (self._end_pipe, *self._pipes):
            pipe.close()

    def _copy(self) -> None:
        deadline_s = math.inf
        while self._selector.get_map() and (left_s := deadline_s - time.monotonic()) > 0:
            for key, _ in self._selector.select(None if left_s == math.inf else left_s):
                data = os.read(key.fd, _MAX_LINE_BYTES)
                if key.fileobj is self._end_pipe:
                    deadline_s = time.monotonic() + _DRAIN_S
                else:
                    key.data.feed(data)
                if not data:
                    self._selector.unregister(key.fileobj)

    def _write_error(self, label: str, text: str) -> None:
        if text.strip():
            self._last_errors[label] = text
        self._write(self._stderr, label, text)

    def _write(self, stream: TextIO, label: str, text: str) -> None:
        encoding = stream.encoding or "utf-8"
        line = f"[{label}] {text}\n".encode(encoding, "replace").decode(encoding)
        with self._lock:
            if self._is_cut_off:
                return
            try:
                stream.write(line)
                stream.flush()
            except (OSError, ValueError):  # Closed. Reading on keeps the members from blocking.
                self._is_cut_off = True
                self._on_cut_off()


@final
class Lines:
    """Bytes in, whole lines out. A lone carriage return, as progress bars print, ends one too."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take more bytes; none at all means that there will be no more."""
        text = (self._rest + data).lstrip(b"\r")
        # A carriage return at the very end may be half of a line end: it waits for more bytes.
        *lines, self._rest = re.split(rb"\r*\n\r*|\r+(?=[^\r\n])", text)
        if self._rest and (not data or len(self._rest) >= _MAX_LINE_BYTES):
            lines, self._rest = [*lines, self._rest.rstrip(b"\r")], b""
        for line in lines:
            self._emit(line.decode(errors="replace"))
