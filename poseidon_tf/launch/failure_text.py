"""What is said of a failure: one line for the other members, a block of lines for people.

TensorFlow puts the graph's nodes and where they were made around a message; here it is without.
"""

from __future__ import annotations

import linecache
import re
import sysconfig
import textwrap
import traceback
import types
from pathlib import Path
from typing import NamedTuple

from poseidon_tf.coordinator.job_failure import JobFailure
from poseidon_tf.errors import PoseidonError
from poseidon_tf.transport.base import shortened

# Of an exception's text, whose full length is in the traceback of the worker that raised it.
MAX_CHARS = 1000
_NOT_THE_USERS = (f"{sysconfig.get_path('stdlib')}/", f"{Path(__file__).parents[1]}/", "<")
_INSTALLED = ("/site-packages/", "/dist-packages/", "/__autograph_generated_file")
_ENTRY = re.compile(r'File "([^"]+)", line (\d+)(?:, in (\S+))?')
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# "[[{{node fc1/MatMul}}]]", "[Op:__inference_step_12]", "{{function_node __wrapped__MatMul}}".
_NODES = re.compile(r"\[\[.*?\]\]|\[Op:[^\]]*\]|\{\{function_node .*?\}\}")
# "{{node fc1/MatMul}} = MatMul[T=DT_FLOAT](x, w)", of which the name is told.
_NODE = re.compile(r"\{\{node (\S+)\}\}(?: = \w+\[[^\]]*\]\([^)]*\))?")
_WHILE_TRACING = "in user code:"  # AutoGraph's first line; the rest is indented.
_OF_THE_GRAPH = (
    "Graph execution error:",
    "Detected at node ",
    "<stack traces unavailable>",
    "Traceback (most recent call last)",
    'File "',
)
_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t", '"': r"\"", "'": r"\'", "\\": r"\\"}


class Place(NamedTuple):
    """A line of the user's own code; `code` is the line itself, where it can be read."""

    path: str
    line: int
    function: str
    code: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"

    @property
    def described(self) -> str:
        """With the function's name and the line itself."""
        function = f", in {self.function}" if self.function else ""
        return f"{self}{function}{': ' * bool(self.code)}{self.code}"


def step_words(last_step: int) -> str:
    """When it was, for a worker that has begun `last_step` last; -1 before the first."""
    return f"after step {last_step}" if last_step >= 0 else "before the first step"


def in_one_line(error: BaseException) -> str:
    """Type and text of `error`, without line ends and without TensorFlow's nodes."""
    text = _NODE.sub(r"\1", _COLOURS.sub("", str(error)))
    if _is_of_a_graph(error):
        text = _without_graph(text)
    text, kind = " ".join(text.split()), type(error).__name__
    if text and not text.startswith(f"{kind}: "):
        text = f"{kind}: {text}"
    return shortened(text or kind, most_chars=MAX_CHARS)


def places_in(trace: types.TracebackType | None) -> list[Place]:
    """The user's own lines that were running, the innermost last."""
    return [
        Place(entry.filename, entry.lineno or 0, entry.name, entry.line or "")
        for entry in traceback.extract_tb(trace)
        if _is_the_users(entry.filename)
    ]


def places_of(error: BaseException, trace: types.TracebackType | None) -> list[Place]:
    """Where in the user's own code `error` comes from, the innermost place last.

    Of a graph TensorFlow's message says it: the code that made the node, or the Python function
    that the graph has called.
    """
    entries = _ENTRY.findall(str(error)) if _is_of_a_graph(error) else []
    in_graph = [
        Place(path, int(line), function, linecache.getline(path, int(line)).strip())
        for path, line, function in entries
        if _is_the_users(path)
    ]
    return places_in(trace) + in_graph


def is_told_by(error: BaseException, cause: PoseidonError) -> bool:
    """Whether `error` is what the job's failure, of this `cause`, has become in a script."""
    told, text = str(cause), str(error)
    if told in text or _as_an_assertion_has_it(told) in text:
        return True
    # This worker has found it too, and another one was the first to tell.
    return isinstance(error, PoseidonError) and bool(text) and text in told


def own_block(
    name: str, when: str, error: BaseException, trace: types.TracebackType | None
) -> list[str]:
    """Of the worker `name`, whose own script has raised `error`: who, what, where, what to do."""
    places = places_of(error, trace)
    lines = [f"{name}, {when}", in_one_line(error)]
    if places:
        lines.append(f"at {places[-1].described}")
        if places[0][:2] != places[-1][:2]:
            lines.append(f"called from {places[0].described}")
    advice = isinstance(error, PoseidonError) and error.what_to_do or "mend the script there"
    return [*lines, f"what to do: {advice}; its whole traceback is above"]


def told_block(cause: PoseidonError, where: str) -> list[str]:
    """Of a failure that was told by others: what, where this member was, what to do."""
    lines = [f"{type(cause).__name__}: {cause}", *([where] if where else [])]
    return [*lines, *([f"what to do: {cause.what_to_do}"] if cause.what_to_do else [])]


def told_by(job_failure: JobFailure) -> list[str]:
    """The block of a worker whose job has failed."""
    cause = job_failure.cause
    assert cause is not None, "it has not failed"
    return told_block(cause, str(job_failure.failure).removeprefix(f"{cause}; "))


def _is_of_a_graph(error: BaseException) -> bool:
    """Whether it comes from a graph, or from tracing one."""
    is_tensorflows = type(error).__module__.startswith("tensorflow.")
    return is_tensorflows or str(error).startswith(_WHILE_TRACING)


def _is_the_users(path: str) -> bool:
    return not path.startswith(_NOT_THE_USERS) and not any(part in path for part in _INSTALLED)


def _without_graph(text: str) -> str:
    if text.startswith(_WHILE_TRACING):
        text = textwrap.dedent(text.removeprefix(_WHILE_TRACING))
    lines: list[str] = []
    for line in text.splitlines():
        # What is indented is where a node was made, or a traceback.
        if line[:1].isspace() or line.startswith(_OF_THE_GRAPH):
            continue
        line = _NODES.sub("", line).strip()
        if line and line not in lines:
            lines.append(line)
    return "\n".join(lines)


def _as_an_assertion_has_it(text: str) -> str:
    """`text` with the escapes that TensorFlow's assertions print."""
    return "".join(_ESCAPES.get(character, character) for character in text)
