"""What happened when: events of one process, written as a Chrome trace that Perfetto opens.

A timeline has (nearly) all of them and is written when the process ends. A process without one
still keeps its newest events, as a flight recorder does: they are written when something fails.

Every variable is a track. An event is an instant on it; from a step's "gradient ready" to its last
"received" the track also shows a slice, which is the time that the variable's communication took.
Times are microseconds by the coordinator's clock, so the files of one job can be merged.
"""

from __future__ import annotations

import collections
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, final

from poseidon_tf.errors import ConfigError

Kind: TypeAlias = Literal["gradient ready", "sent", "released", "received", "applied"]


_log = logging.getLogger("poseidon_tf")
FLIGHT_EVENTS = 1000  # That every process keeps.
_TIMELINE_EVENTS = 200_000
_TRACE, _FLIGHT = ".trace.json", ".flight.trace.json"
# A file system that hangs must not keep a failure from those who wait for it.
_DUMP_S = 1.0


class Event(NamedTuple):
    """One thing that happened to one variable in one step."""

    time_s: float  # By the clock of the process.
    kind: str
    variable: str
    step: int
    args: dict[str, Any]


@final
class Recorder:
    """Keeps the newest events of one process and writes them to a file.

    Args:
      process_name: such as "worker 0"; names the file and the process in the viewer.
      directory: where the files go; None for no timeline, and the working directory.
      clock: this process's wall clock, in seconds.
      offset_s: what to add to `clock` for the coordinator's time. It may be assigned later, once
        it is known; it then counts for the events before as well.
      max_events: events kept; older ones are dropped, and the file says how many. By default
        200,000 for a timeline, else 1000.

    Attributes:
      about: what else a reader of the files may want to know of the process; must be JSON. `run`
        is the number of its run of the job.
    """

    def __init__(
        self,
        process_name: str,
        *,
        directory: str | os.PathLike[str] | None,
        clock: Callable[[], float] = time.time,
        offset_s: float = 0.0,
        max_events: int | None = None,
    ) -> None:
        self.offset_s = offset_s
        self._process_name = process_name
        self._directory = None if directory is None else Path(directory)
        self._clock = clock
        self.about: dict[str, Any] = {}
        if max_events is None:
            max_events = FLIGHT_EVENTS if directory is None else _TIMELINE_EVENTS
        self._lock = threading.Lock()
        self._max_events = max_events
        self._events: collections.deque[Event] = collections.deque(maxlen=max_events)
        self._num_recorded = 0

    @property
    def is_recording(self) -> bool:
        """Whether there will be a timeline; the newest events are kept in any case."""
        return self._directory is not None

    def event(self, kind: Kind, variable: str, step: int, **args: Any) -> None:
        """Note that `kind` happened to `variable` in `step` now; `args` go along."""
        event = Event(self._clock(), kind, variable, step, args)
        with self._lock:
            self._events.append(event)
            self._num_recorded += 1

    def write(self) -> Path | None:
        """Write `<directory>/<process>.trace.json`, whole or not at all; None if not recording."""
        if self._directory is None:
            return None
        return self._write(self._directory, _TRACE, self._max_events)

    def dump(self, why: str) -> Path | None:
        """Write the newest 1000 events to `<process>.<pid>.flight.trace.json`, over an earlier one.

        It goes into the directory of the timeline, or else the working directory. None where there
        is nothing to write, or it cannot be written within a second, which is logged.

        Args:
          why: kept in the file.
        """
        if not self._num_recorded:
            return None
        self.about["written because"] = why
        directory = self._directory or Path()
        done: list[Path] = []

        def write() -> None:
            try:
                suffix = f".{os.getpid()}{_FLIGHT}"
                done.append(self._write(directory, suffix, FLIGHT_EVENTS).absolute())
            except Exception as failure:  # Whatever it is, there is a worse one to be told of.
                where = os.fspath(directory)
                _log.warning("the last events cannot be written into %r: %s", where, failure)

        writing = threading.Thread(target=write, name="poseidon-flight", daemon=True)
        writing.start()
        writing.join(_DUMP_S)
        if writing.is_alive():
            _log.warning("%r takes long to write the last events into", os.fspath(directory))
        return done[0] if done else None

    def _write(self, directory: Path, suffix: str, most_events: int) -> Path:
        with self._lock:
            events = list(self._events)[-most_events:]
            num_dropped = self._num_recorded - len(events)
        about: dict[str, Any] = {"pid": os.getpid(), "is_whole": suffix == _TRACE}
        for name, value in dict(self.about).items():  # Others may add to it meanwhile.
            about[name] = dict(value) if isinstance(value, dict) else value
        trace = _chrome_trace(self._process_name, events, self.offset_s, num_dropped, about)
        directory.mkdir(parents=True, exist_ok=True)
        file_name = re.sub(r"[^\w.-]+", "-", self._process_name)
        path = directory / f"{file_name}{suffix}"
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            unfinished.write_text(json.dumps(trace, default=str))
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        return path


class Run(NamedTuple):
    """What the processes of one attempt at the job have written.

    Attributes:
      number: nanoseconds since the epoch when it began, by the coordinator's clock; 0 if the files
        do not say.
      traces: one of each file.
    """

    number: int
    traces: list[dict[str, Any]]

    @property
    def processes(self) -> list[str]:
        """Their names, in order, each once."""
        return sorted({_process_of(trace)[0] for trace in self.traces})

    @property
    def reasons(self) -> list[str]:
        """Why last events were written, if they were, each once."""
        said = [_about(trace).get("written because") for trace in self.traces]
        return list(dict.fromkeys(str(why) for why in said if why))

    def merged(self) -> dict[str, Any]:
        """One trace of all of them: a process per file, in their order.

        What a process has written when something failed is left out where its timeline has all of
        it.
        """
        whole = {_process_of(trace) for trace in self.traces if _is_whole(trace)}
        traces = [t for t in self.traces if _is_whole(t) or _process_of(t) not in whole]
        events: list[dict[str, Any]] = []
        for pid, trace in enumerate(traces, start=1):
            events += [{**event, "pid": pid} for event in trace["traceEvents"]]
        # Names first, then time: viewers and readers expect neither to go back.
        events.sort(key=lambda event: event.get("ts", float("-inf")))
        about = {"processes": [trace.get("otherData") for trace in traces]}
        return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}


def runs(paths: Iterable[str | os.PathLike[str]]) -> list[Run]:
    """The runs that have written these files, the newest first.

    Raises:
      ConfigError: a file cannot be read, or is no trace.
    """
    by_number: dict[int, list[dict[str, Any]]] = {}
    for path in paths:
        trace = _read(path)
        number = _about(trace).get("run")
        by_number.setdefault(number if isinstance(number, int) else 0, []).append(trace)
    return [Run(number, by_number[number]) for number in sorted(by_number, reverse=True)]


def _is_whole(trace: Mapping[str, Any]) -> bool:
    return bool(_about(trace).get("is_whole", True))


def _process_of(trace: Mapping[str, Any]) -> tuple[str, str]:
    about = _about(trace)
    return str(about.get("process")), str(about.get("pid"))


def _about(trace: Mapping[str, Any]) -> Mapping[str, Any]:
    about = trace.get("otherData")
    return about if isinstance(about, dict) else {}


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        trace: Any = json.loads(Path(path).read_text())
    except (OSError, ValueError, RecursionError) as failure:
        raise ConfigError(f"{os.fspath(path)!r} cannot be read as a trace: {failure}") from failure
    events = trace.get("traceEvents") if isinstance(trace, dict) else None
    if not isinstance(events, list) or not all(
        isinstance(event, dict) and isinstance(event.get("ts", 0.0), int | float)
        for event in events
    ):
        raise ConfigError(f"{os.fspath(path)!r} is not a trace that poseidon_tf has written")
    return dict(trace)


def _chrome_trace(
    process_name: str,
    events: list[Event],
    offset_s: float,
    num_dropped: int,
    others: Mapping[str, Any],
) -> dict[str, Any]:
    tracks = {name: tid for tid, name in enumerate(_in_order(e.variable for e in events), start=1)}
    rows = [_metadata("process_name", process_name)]
    rows += [_metadata("thread_name", name, tid) for name, tid in tracks.items()]
    timed = [_slice(*span, tracks, offset_s) for span in _spans(events)]
    timed += [_instant(event, tracks[event.variable], offset_s) for event in events]
    timed.sort(key=lambda row: float(row["ts"]))
    if num_dropped:
        note = f"{num_dropped} earlier events were not kept"
        first_us = timed[0]["ts"] if timed else 0.0
        rows.append({"ph": "i", "s": "p", "name": note, "ts": first_us, "pid": 1, "tid": 0})
    about = {"process": process_name, "offset_s": offset_s, "events_dropped": num_dropped, **others}
    return {"traceEvents": rows + timed, "displayTimeUnit": "ms", "otherData": about}


def _spans(events: list[Event]) -> list[tuple[Event, Event]]:
    """For each variable and step the first "gradient ready" and the last "received" after it."""
    ready: dict[tuple[str, int], Event] = {}
    received: dict[tuple[str, int], Event] = {}
    for event in events:
        key = event.variable, event.step
        if event.kind == "gradient ready":
            ready.setdefault(key, event)
        elif event.kind == "received" and key in ready:
            received[key] = event
    return [(ready[key], last) for key, last in received.items()]


def _slice(first: Event, last: Event, tracks: dict[str, int], offset_s: float) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": f"step {first.step}",
        "cat": "communication",
        "ts": _microseconds(first.time_s, offset_s),
        "dur": max(_microseconds(last.time_s - first.time_s), 0.0),
        "pid": 1,
        "tid": tracks[first.variable],
        "args": {"variable": first.variable, "step": first.step},
    }


def _instant(event: Event, tid: int, offset_s: float) -> dict[str, Any]:
    return {
        "ph": "i",
        "s": "t",
        "name": event.kind,
        "cat": "event",
        "ts": _microseconds(event.time_s, offset_s),
        "pid": 1,
        "tid": tid,
        "args": {**event.args, "variable": event.variable, "step": event.step},
    }


def _metadata(name: str, value: str, tid: int = 0) -> dict[str, Any]:
    return {"ph": "M", "name": name, "pid": 1, "tid": tid, "args": {"name": value}}


def _microseconds(time_s: float, offset_s: float = 0.0) -> float:
    # The whole of the sum before scaling: near 1.7e15 us a double still resolves 0.25 us.
    return round((time_s + offset_s) * 1e6, 2)


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
