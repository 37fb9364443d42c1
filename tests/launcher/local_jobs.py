"""What the fixture `run` gives: how a job of one small script has ended."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass
class Ended:
    """The exit code, and the lines of both outputs."""

    code: int
    out: list[str]
    err: list[str]


Run: TypeAlias = Callable[..., Ended]
