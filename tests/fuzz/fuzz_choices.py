"""Turns a fuzzer's bytes into choices, so that any bytes are a sequence of events."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """Reads bytes one after another; behind the end there are only zeros."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        """Whether there is anything left to decide by."""
        return self._at < len(self._data)

    def byte(self) -> int:
        value = self._data[self._at] if self else 0
        self._at += 1
        return value

    def of(self, options: Sequence[T]) -> T:
        return options[self.byte() % len(options)]

    def mostly(self, usual: T, *others: T) -> T:
        """The usual one, seven times in eight: else nothing would ever get far."""
        at = self.byte()
        return others[at // 8 % len(others)] if at % 8 == 7 else usual

    def bytes(self, most: int) -> bytes:
        size = self.byte() % (most + 1)
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def mutated(self, message: builtins.bytes) -> builtins.bytes:
        """`message`, or what is left of it after a few bytes were changed, cut or added."""
        changed = bytearray(message)
        for _ in range(self.mostly(0, 1, 3)):
            at = self.byte() * 256 + self.byte()
            match self.of(("set", "cut", "add")):
                case "set" if changed:
                    changed[at % len(changed)] = self.byte()
                case "cut":
                    del changed[at % (len(changed) + 1) :]
                case "add":
                    changed[at % (len(changed) + 1) :] = self.bytes(12)
        return bytes(changed)
