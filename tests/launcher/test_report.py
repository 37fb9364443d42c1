"""What the report reads of a timeline: steps, and who let whom wait."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from poseidon_tf.coordinator.messages import ServerFigures
from poseidon_tf.launcher.report.page import page
from poseidon_tf.launcher.report.steps import Lateness, late_units, late_workers, read

SUMS = asdict(
    ServerFigures(
        sums=7,
        received_bytes=2048,
        sent_bytes=4096,
        summing_s=0.25,
        waits_for="worker rank 1: 'a<b>' of step 2",
    )
)


def row(pid: int, name: str, unit: str, step: int, ms: float) -> dict[str, Any]:
    args = {"variable": unit, "step": step}
    return {"ph": "i", "cat": "event", "name": name, "pid": pid, "ts": 1000.0 * ms, "args": args}


def trace(num_steps: int = 3) -> dict[str, Any]:
    """Rank 1 has its gradients 5 ms later than rank 0; a step is as long as its number says."""
    units = {"top": "ps", "low": "sfb", "loss": "all_reduce"}
    rows = []
    for step in range(num_steps):
        at = 100.0 * step
        for pid, late in ((1, 0.0), (2, 5.0)):
            rows += [
                row(pid, "gradient ready", "top", step, at + late),
                row(pid, "sent", "top", step, at + late + 1),
                row(pid, "gradient ready", "low", step, at + late + 10),
                row(pid, "sent", "low", step, at + late + 11),
                row(pid, "received", "top", step, at + 8),
                row(pid, "received", "low", step, at + 20 + step),
                row(pid, "gradient ready", "loss", step, at + 50),
            ]
        rows.append(row(3, "released", "top#0", step, at + 7))
    processes = [
        {"process": "worker 0", "units": units, "plans": ["the <plan>"]},
        {"process": "worker 1", "units": units, "written because": "SIGUSR2"},
        {"process": "server 0", "figures": SUMS},
    ]
    return {"traceEvents": rows, "otherData": {"processes": processes}}


def test_a_step_has_what_each_worker_did_and_whom_it_waited_for() -> None:
    timeline = read(trace())
    assert [step.number for step in timeline.steps] == [0, 1, 2]
    assert timeline.schemes == {"top": "ps", "low": "sfb"}
    step = timeline.steps[1]
    quick, slow = step.workers
    assert [each.unit for each in quick.exchanges] == ["top", "low"]
    begun = (quick.forward_us, quick.backward_us, quick.ready_us, quick.end_us)
    assert begun == (20_000.0, 100_000.0, 110_000.0, 121_000.0)
    assert (slow.ready_us, slow.last.unit) == (115_000.0, "low")
    assert step.latest is slow and step.sent_last("low") == (1, 5_000.0)
    assert step.released_us == {"top": 107_000.0}
    assert step.lasted_us == 101_000.0


def test_who_and_what_was_late_is_counted_over_all_steps() -> None:
    steps = read(trace()).steps
    assert late_workers(steps) == [Lateness("worker rank 1", 3, 5_000.0)]
    (low,) = late_units(steps)
    assert (low.name, low.times) == ("low", 6)


def test_a_step_that_is_not_whole_is_left_out() -> None:
    """The last one of a job that has failed: no sum has come."""
    cut = trace()
    cut["traceEvents"] = [
        each
        for each in cut["traceEvents"]
        if (each["name"], each["args"]["step"]) != ("received", 2)
    ]
    assert [step.number for step in read(cut).steps] == [0, 1]


def test_the_steps_of_a_second_model_are_steps_of_their_own() -> None:
    """Its units count from 0 again, while the first model's have come far."""
    units = {"one/top": "ps", "one/low": "ps", "two/top": "ps"}
    rows = []
    for step in range(4):  # Rank 1 sends in another order.
        for pid, at in ((1, 10.0 * step), (2, 10.0 * step + 1)):
            for unit in ("one/top", "one/low")[:: 1 if pid == 1 else -1]:
                rows.append(row(pid, "gradient ready", unit, step, at))
                rows.append(row(pid, "received", unit, step, at + 5))
    for step in range(2):
        for pid in (1, 2):
            rows.append(row(pid, "gradient ready", "two/top", step, 100.0 + 20 * step))
            rows.append(row(pid, "received", "two/top", step, 107.0 + 20 * step))
    processes = [{"process": f"worker {rank}", "units": units} for rank in range(2)]
    rows.sort(key=lambda each: float(each["ts"]))
    steps = read({"traceEvents": rows, "otherData": {"processes": processes}}).steps
    found = [
        (step.number, sorted(each.unit for each in step.workers[1].exchanges)) for step in steps
    ]
    both = ["one/low", "one/top"]
    assert found == [(0, both), (1, both), (2, both), (3, [*both, "two/top"]), (1, ["two/top"])]
    assert steps[2].lasted_us == 11_000.0


def test_the_first_step_by_another_plan_is_a_step_of_its_own() -> None:
    """Units that are new go on with the numbers of those before; one may be the same."""
    units = {"0/low": "ps", "top": "sfb", "low": "sfb"}
    rows = []
    for step, names in enumerate([("top", "0/low"), ("top", "0/low"), ("low", "top")]):
        for pid in (1, 2):
            for at, unit in enumerate(names):
                rows.append(row(pid, "gradient ready", unit, step, 10.0 * step + at))
                rows.append(row(pid, "received", unit, step, 10.0 * step + 5))
    processes = [{"process": f"worker {rank}", "units": units} for rank in range(2)]
    steps = read({"traceEvents": rows, "otherData": {"processes": processes}}).steps
    found = [[each.unit for each in step.workers[0].exchanges] for step in steps]
    assert found == [["top", "0/low"], ["top", "0/low"], ["low", "top"]]
    assert [step.number for step in steps] == [0, 1, 2]


def test_a_record_that_begins_within_a_step_has_the_steps_after_it() -> None:
    """Such as what a process has in memory when something fails."""
    cut = trace()
    cut["traceEvents"] = [each for each in cut["traceEvents"] if each["ts"] > 110_000.0]
    assert [step.number for step in read(cut).steps] == [2]


def test_the_page_shows_what_there_is_and_says_what_is_missing() -> None:
    """Names are text, not HTML."""
    text = page(read(trace()))
    assert "<pre>the &lt;plan&gt;</pre>" in text
    assert "worker 1 has written its last events because of: SIGUSR2" in text
    assert "<h2>Step 1, of median length: 101 ms</h2>" in text
    assert (
        "<li>worker rank 0 waited 11 ms, at last for low, which worker rank 1 was the last to "
        "send, 5 ms after the first</li>" in text
    )
    assert (
        "<tr><td>server 0</td><td>7</td><td>250 ms</td><td>2.0 KiB</td><td>4.0 KiB</td>"
        "<td>worker rank 1: &#x27;a&lt;b&gt;&#x27; of step 2</td></tr>" in text
    )
    empty = page(read(trace(0)))
    assert "No step is there whole" in empty
