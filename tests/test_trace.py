"""Traces: what is recorded, what the file holds, and how files of one job join."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from poseidon_tf.errors import ConfigError
from poseidon_tf.trace import Recorder, runs


class Clock:
    """A clock that goes on by `tick_s` with every look."""

    def __init__(self, now_s: float, tick_s: float = 0.001) -> None:
        self.now_s = now_s
        self.tick_s = tick_s

    def __call__(self) -> float:
        self.now_s += self.tick_s
        return self.now_s


def record_step(recorder: Recorder, variable: str, step: int) -> None:
    for kind in ("gradient ready", "sent", "released", "received", "applied"):
        recorder.event(kind, variable, step)


def written(recorder: Recorder) -> Path:
    path = recorder.write()
    assert path is not None
    return path


def merged(*paths: Path) -> dict[str, Any]:
    (run,) = runs(paths)
    return run.merged()


def rows(trace: dict[str, Any], phase: str) -> list[dict[str, Any]]:
    return [row for row in trace["traceEvents"] if row["ph"] == phase]


def test_without_a_directory_there_is_no_timeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recorder = Recorder("worker 0", directory=None)
    recorder.event("sent", "fc1/kernel", 0, bytes=10)
    assert not recorder.is_recording
    assert recorder.write() is None
    assert list(tmp_path.iterdir()) == []


def test_the_last_thousand_events_are_written_when_something_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into the working directory, under the names of role, rank and process; a later one is there
    instead of an earlier one. Where nothing has happened there is no file."""
    monkeypatch.chdir(tmp_path)
    recorder = Recorder("worker 3", directory=None, clock=Clock(0.0, tick_s=1.0))
    assert recorder.dump("nothing") is None
    for step in range(1500):
        recorder.event("sent", "fc1/kernel", step)
    path = recorder.dump("server 0 is gone")
    assert path == tmp_path / f"worker-3.{os.getpid()}.flight.trace.json"
    trace = json.loads(path.read_text())
    steps = [row["args"]["step"] for row in rows(trace, "i") if "args" in row]
    assert steps == list(range(500, 1500))
    assert trace["otherData"]["events_dropped"] == 500
    assert trace["otherData"]["written because"] == "server 0 is gone"
    recorder.event("sent", "fc1/kernel", 1500)
    assert recorder.dump("again") == path and list(tmp_path.iterdir()) == [path]
    assert json.loads(path.read_text())["otherData"]["written because"] == "again"


def test_where_they_cannot_be_written_that_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It must not hide what has failed."""
    (tmp_path / "file").touch()
    recorder = Recorder("worker 0", directory=tmp_path / "file")
    recorder.event("sent", "fc1/kernel", 0)
    assert recorder.dump("a failure") is None
    (text,) = caplog.messages
    assert text.startswith(f"the last events cannot be written into '{tmp_path / 'file'}': ")


def test_a_process_that_has_a_timeline_is_not_shown_twice(tmp_path: Path) -> None:
    """Of what it had written before, the timeline has all; of another process it has nothing."""
    recorder = Recorder("worker 0", directory=tmp_path, clock=Clock(0.0))
    recorder.event("sent", "fc1/kernel", 0)
    flight = recorder.dump("a stall")
    assert flight is not None and flight.parent == tmp_path
    alone = merged(flight)
    assert [about["process"] for about in alone["otherData"]["processes"]] == ["worker 0"]
    both = merged(flight, written(recorder))
    assert [about["is_whole"] for about in both["otherData"]["processes"]] == [True]
    other = json.loads(flight.read_text())
    other["otherData"]["pid"] += 1
    flight.write_text(json.dumps(other))
    assert len(merged(flight, written(recorder))["otherData"]["processes"]) == 2


def test_a_file_has_a_track_per_variable_an_instant_per_event_and_a_slice_per_step(
    tmp_path: Path,
) -> None:
    recorder = Recorder("worker 0", directory=tmp_path / "new", clock=Clock(100.0), offset_s=2.0)
    record_step(recorder, "fc1/kernel", 0)
    record_step(recorder, "fc2/kernel", 0)
    recorder.event("gradient ready", "fc1/kernel", 1)
    recorder.event("sent", "fc1/kernel", 1, bytes=64)
    path = written(recorder)
    assert path == tmp_path / "new" / "worker-0.trace.json"
    assert [file.name for file in path.parent.iterdir()] == [path.name]

    trace = json.loads(path.read_text())
    names = {(row["name"], row["tid"]): row["args"]["name"] for row in rows(trace, "M")}
    assert names == {
        ("process_name", 0): "worker 0",
        ("thread_name", 1): "fc1/kernel",
        ("thread_name", 2): "fc2/kernel",
    }
    assert len(rows(trace, "i")) == 12
    assert rows(trace, "i")[-1]["args"] == {"bytes": 64, "variable": "fc1/kernel", "step": 1}
    first, second = rows(trace, "X")  # Step 1 of fc1 was never received: no slice.
    assert (first["tid"], second["tid"]) == (1, 2)
    assert first["name"] == "step 0"
    assert first["ts"] == pytest.approx(102.001e6, abs=1)
    assert first["dur"] == pytest.approx(3000, abs=1)  # Three looks at the clock later.
    times = [row["ts"] for row in trace["traceEvents"] if "ts" in row]
    assert times == sorted(times)


def test_a_slice_ends_with_the_last_arrival(tmp_path: Path) -> None:
    recorder = Recorder("w", directory=tmp_path, clock=Clock(0.0, tick_s=1.0))
    for kind in ("gradient ready", "received", "received"):
        recorder.event(kind, "v", 0)
    (communication,) = rows(json.loads(written(recorder).read_text()), "X")
    assert communication["dur"] == 2e6


def test_only_the_newest_events_are_kept_and_the_others_counted(tmp_path: Path) -> None:
    recorder = Recorder("w", directory=tmp_path, clock=Clock(0.0), max_events=10)
    for step in range(25):
        recorder.event("sent", "v", step)
    trace = json.loads(written(recorder).read_text())
    instants = rows(trace, "i")
    assert instants[0]["name"] == "15 earlier events were not kept"
    assert [row["args"]["step"] for row in instants[1:]] == list(range(15, 25))
    assert trace["otherData"]["events_dropped"] == 15


def test_an_offset_learned_later_counts_for_the_events_before(tmp_path: Path) -> None:
    recorder = Recorder("w", directory=tmp_path, clock=Clock(100.0, tick_s=0.0))
    recorder.event("sent", "v", 0)
    recorder.offset_s = -5.0
    (sent,) = rows(json.loads(written(recorder).read_text()), "i")
    assert sent["ts"] == 95e6


def test_a_failed_write_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder("w", directory=tmp_path, clock=Clock(0.0))
    recorder.event("sent", "v", 0)
    path = written(recorder)
    before = path.read_text()
    recorder.event("sent", "v", 1)

    def full_disk(source: object, target: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        recorder.write()
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_events_of_many_threads_are_all_kept(tmp_path: Path) -> None:
    recorder = Recorder("w", directory=tmp_path)

    def record(variable: str) -> None:
        for step in range(500):
            recorder.event("sent", variable, step)

    threads = [threading.Thread(target=record, args=(f"v{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trace = json.loads(written(recorder).read_text())
    assert len(rows(trace, "i")) == 2000
    assert trace["otherData"]["events_dropped"] == 0


def test_merged_files_share_one_timeline_with_a_process_each(tmp_path: Path) -> None:
    # The same two moments, by a clock that is right and by one that is 5 s fast.
    right = Recorder("worker 0", directory=tmp_path, clock=Clock(100.0, tick_s=1.0))
    fast = Recorder("worker 1", directory=tmp_path, clock=Clock(105.5, tick_s=1.0), offset_s=-5.0)
    for recorder in (right, fast):
        recorder.event("sent", "v", 0)
        recorder.event("received", "v", 0)
    trace = merged(written(right), written(fast))
    names = {row["pid"]: row["args"]["name"] for row in rows(trace, "M") if row["tid"] == 0}
    assert names == {1: "worker 0", 2: "worker 1"}
    instants = [(row["pid"], row["name"], row["ts"]) for row in rows(trace, "i")]
    assert instants == [
        (1, "sent", 101e6),
        (2, "sent", 101.5e6),
        (1, "received", 102e6),
        (2, "received", 102.5e6),
    ]
    assert json.loads(json.dumps(trace)) == trace


def test_the_runs_of_a_job_are_kept_apart(tmp_path: Path) -> None:
    """One failed with three workers, and the next has ended with two; of an old file no number
    is known."""
    paths = []
    for number, names in ((7, "abc"), (9, "ab"), (None, "d")):
        for name in names:
            recorder = Recorder(name, directory=tmp_path / str(number))
            recorder.event("sent", "v", 0)
            if number is not None:
                recorder.about["run"] = number
            path = recorder.dump("a is gone") if number == 7 else recorder.write()
            assert path is not None
            paths.append(path)
    found = runs(paths)
    assert [run.number for run in found] == [9, 7, 0]
    assert [run.processes for run in found] == [["a", "b"], ["a", "b", "c"], ["d"]]
    assert [run.reasons for run in found] == [[], ["a is gone"], []]
    assert [len(rows(run.merged(), "i")) for run in found] == [2, 3, 1]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"traceEvents": 1}', '{"traceEvents": [1]}', "[" * 100_000]
    + ['{"traceEvents": [{"ts": "now"}]}'],
)
def test_a_file_that_is_no_trace_is_named(tmp_path: Path, text: str) -> None:
    """Whoever points the command at something else is told at which file it stopped."""
    path = tmp_path / "other.trace.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="other.trace.json"):
        runs([path])


def test_a_file_system_that_hangs_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever has a failure to tell goes on, without a file to name."""
    recorder = Recorder("worker 3", directory=tmp_path)
    recorder.event("sent", "kernel", 0)
    answers = threading.Event()
    monkeypatch.setattr("poseidon_tf.trace._DUMP_S", 0.05)
    monkeypatch.setattr(Recorder, "_write", lambda *_: answers.wait(30.0))
    assert recorder.dump("a stall") is None
    assert "takes long to write the last events into" in caplog.text
    answers.set()
