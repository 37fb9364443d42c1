"""What a job shows of itself when `fit` has ended."""

from __future__ import annotations

import itertools
import json
import re
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poseidon_tf.coordinator.asking import StatusQuestion
from poseidon_tf.coordinator.status import Status
from poseidon_tf.errors import ConfigError
from poseidon_tf.launch.security_env import read_security
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.transport.security import Security
from tests.support.certificates import Authority
from tests.support.jobs import Job, Member

pytestmark = pytest.mark.processes

STEPS = 12  # Of one fit.
FEWER_STEPS = 6  # Of the models after it.
SMALL_BYTES = 4 * (32 * 8 + 8 + 8 * 8 + 8)  # What they have; the last one has it twice.
ROWS = 4  # Of one worker's share of a batch.
# float32: the kernel and bias of "top", by the server; what the kernel and bias of "big" are.
TOP_BYTES, BIG_BYTES = 4 * (256 * 8 + 8), 4 * (32 * 256 + 256)


class Seen:
    """Two workers and a server: what each worker found and printed."""

    def __init__(self, end: Path) -> None:
        authority = Authority(end.parent)
        files = authority.member("127.0.0.1")
        environ = {
            "POSEIDON_TOKEN": "a-token-of-this-job",
            "POSEIDON_TLS_CA": authority.ca,
            "POSEIDON_TLS_CERTIFICATE": files["certificate"],
            "POSEIDON_TLS_KEY": files["key"],
        }
        security = read_security(environ)
        with Job("seen.py", str(end), environ=environ) as job:
            self.status = seen_from_outside(job.workers[0].address, security)
            self.refusals = [
                refused_by(job.workers[1].address, security),
                refused_by(job.workers[0].address, replace(security, token="another-token")),
            ]
            self.flights = [
                written_on_request(member) for member in (job.workers[1], job.servers[0])
            ]
            end.touch()
            self.found = job.results()
            self.printed = [worker.output() for worker in job.workers]
            self.addresses = [worker.address for worker in job.workers]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return Seen(tmp_path_factory.mktemp("seen") / "end")


def seen_from_outside(address: str, security: Security) -> Status:
    """The status of the job while it trains, once both workers have told of a whole fit."""
    question = StatusQuestion(address, ConnectionSettings(security=security))
    try:
        deadline_s = time.monotonic() + 120.0
        while True:
            found = question.ask(timeout_s=60.0)
            is_told = sum(figures.steps > STEPS for _, figures in found.reporting) == 2
            if is_told and any(figures.sums > 2 * STEPS for _, figures in found.summing):
                return found
            assert time.monotonic() < deadline_s, found
            time.sleep(0.1)
    finally:
        question.close()


def written_on_request(member: Member) -> dict[str, Any]:
    """What a process writes when it gets SIGUSR2, which it survives."""
    role = "server" if member.role == "ps" else member.role
    path = Path(f"{role}-{member.rank}.{member.process.pid}.flight.trace.json")
    member.process.send_signal(signal.SIGUSR2)
    deadline_s = time.monotonic() + 60.0
    while not path.exists():
        assert time.monotonic() < deadline_s, member.output()
        time.sleep(0.05)
    written: dict[str, Any] = json.loads(path.read_text())
    path.unlink()
    return written


def refused_by(address: str, security: Security) -> str:
    """What is told to who may not ask, or asks a member that hosts no coordinator."""
    question = StatusQuestion(address, ConnectionSettings(security=security))
    try:
        with pytest.raises(ConfigError) as refusal:
            question.ask(timeout_s=60.0)
        return str(refusal.value)
    finally:
        question.close()


def summaries(printed: str) -> list[list[str]]:
    """The lines of each summary."""
    lines = printed.splitlines()
    starts = [at for at, line in enumerate(lines) if re.match(r"poseidon_tf: \d+ steps? ", line)]
    return [[lines[at], *itertools.takewhile(_is_more, lines[at + 1 :])] for at in starts]


def _is_more(line: str) -> bool:
    return line.startswith("  ")


def test_rank_0_alone_sums_up_a_fit_that_prints(seen: Seen) -> None:
    """The fit with verbose=0 prints nothing, and other ranks never do."""
    assert summaries(seen.printed[1]) == []
    (first, second, sent, last, *_), *others = summaries(seen.printed[0])
    assert len(others) == 2, "of the three fits that print"
    assert re.fullmatch(
        rf"poseidon_tf: {STEPS} steps of [\d.e+]+ ms \(median\): [\d.e+]+ ms without waiting, "
        r"[\d.e+]+ ms waiting for sums",
        first,
    )
    assert re.fullmatch(
        r"  communication: [\d.e+]+ ms of each step, \d+ % of it hidden behind computation", second
    )
    assert sent.startswith("  sent per step and worker: 20.6 KiB (ps 16.1 KiB, sfb 4.5 KiB)")
    assert sent.endswith("; a ring all-reduce would have sent 41.0 KiB")
    assert last.endswith("; 0 reconnections")


def test_the_slowest_worker_is_named(seen: Seen) -> None:
    """Rank 1 takes longer for its own part of each step; rank 0 waits for it."""
    last = summaries(seen.printed[0])[0][3]
    assert f"slowest: worker rank 1 ({seen.addresses[1]}), " in last
    quick, slow = (found["after"]["step_times"] for found in seen.found)
    assert slow["own_s"] > 0.05 > quick["own_s"]
    assert quick["waiting_s"] > slow["waiting_s"]


def test_a_later_model_has_a_summary_of_its_own_steps(seen: Seen) -> None:
    """After another with many more steps; and two models of one step, with an optimizer each."""
    _, other, pair = summaries(seen.printed[0])
    for (first, _, *more), num_bytes in ((other, 1.3), (pair, 2.6)):
        sent, last, *_ = (line for line in more if "predicted" not in line)
        assert first.startswith(f"poseidon_tf: {FEWER_STEPS} steps of "), first
        step_ms = float(first.split(" ")[4])
        assert 50.0 < step_ms < 5000.0, "rank 1 works for 50 ms in each step, and began long ago"
        assert f"a ring all-reduce would have sent {num_bytes} KiB" in sent
        assert f"slowest: worker rank 1 ({seen.addresses[1]}), " in last
    for found in seen.found:
        assert found["other"] == found["pair"] == FEWER_STEPS


def test_where_links_are_known_a_summary_says_what_they_let_expect(seen: Seen) -> None:
    """Of the units that were trained, with the computation of the slower worker."""
    first, other, pair = summaries(seen.printed[0])
    assert not any("predicted" in line for line in (*first, *other))
    found = re.fullmatch(
        r"  a step was predicted to take ([\d.e+]+) ms, from its computation and the links; it "
        r"took ([\d.e+]+) ms",
        pair[2],
    )
    assert found, pair
    assert f" of {found[2]} ms (median)" in pair[0]
    assert 50.0 < float(found[1]) < 2.0 * float(found[2]), "rank 1 works for 50 ms in each step"


def test_tensorboard_shows_what_the_summary_says(seen: Seen) -> None:
    """Where Keras's callback writes: on rank 0, at the end of an epoch, or after some batches."""
    names = {"step_ms", "own_ms", "waiting_ms", "communicating_ms", "hidden"}
    names |= {"network_bytes", "ring_all_reduce_bytes"}
    first, second = seen.found
    assert second["other-scalars"] == second["pair-scalars"] == {}
    of_epochs: dict[str, Any] = first["other-scalars"]
    ours = {tag: values for tag, values in of_epochs.items() if tag.startswith("poseidon")}
    assert set(ours) == {f"poseidon/{name}" for name in names}
    assert "epoch_loss" in of_epochs
    ((epoch, step_ms),) = ours["poseidon/step_ms"]
    ((_, own_ms),) = ours["poseidon/own_ms"]
    ((_, waiting_ms),) = ours["poseidon/waiting_ms"]
    assert epoch == 0 and step_ms > max(own_ms, waiting_ms) > 0.0
    assert f" of {step_ms:.3g} ms (median)" in summaries(seen.printed[0])[1][0]
    assert ours["poseidon/ring_all_reduce_bytes"] == [[0, SMALL_BYTES]]
    of_batches: dict[str, Any] = first["pair-scalars"]
    assert {f"poseidon_batch/{name}" for name in names} < set(of_batches)
    assert [batch for batch, _ in of_batches["poseidon_batch/step_ms"]] == [4]
    assert of_batches["poseidon_batch/ring_all_reduce_bytes"] == [[4, 2 * SMALL_BYTES]]
    assert [epoch for epoch, _ in of_batches["poseidon/step_ms"]] == [0]


def test_the_same_is_there_as_data(seen: Seen) -> None:
    for found in seen.found:
        before: dict[str, Any] = found["before"]
        assert (before["steps"], before["ring_all_reduce_bytes"]) == (0, 0)
        after: dict[str, Any] = found["after"]
        assert after["steps"] == STEPS
        assert after["step_times"]["steps"] == STEPS - 1
        assert after["ps"]["network_bytes"] == 2 * STEPS * TOP_BYTES
        assert after["sfb"]["network_bytes"] == STEPS * 4 * ROWS * (32 + 256)
        assert after["sent"] == after["ps"]["network_bytes"] + after["sfb"]["network_bytes"]
        assert after["ring_all_reduce_bytes"] == STEPS * (TOP_BYTES + BIG_BYTES)
        assert 0.0 <= after["hidden"] <= 1.0
        assert 0.0 < after["waiting_s"] <= after["communicating_s"]


def test_a_running_job_tells_who_asks_how_it_is_doing(seen: Seen) -> None:
    """From outside, while it trains: who is there, how long steps take, and who is slow."""
    status = seen.status
    assert (status.phase, status.failure, status.restarts) == ("running", "", 0)
    assert [(m.role, m.rank, m.presence) for m in status.members] == [
        ("worker", 0, "here"),
        ("worker", 1, "here"),
        ("server", 0, "here"),
    ]
    assert [m.address for m in status.members[:2]] == seen.addresses
    assert status.slowest is not None and status.slowest[0].rank == 1
    for member, figures in status.reporting:
        assert figures.steps > STEPS and figures.step_s > 0.0, member
        # A step may be under way.
        done = figures.steps - 1
        assert 2 * done * TOP_BYTES <= figures.ps_bytes <= 2 * figures.steps * TOP_BYTES
        model_bytes = TOP_BYTES + BIG_BYTES
        assert done * model_bytes <= figures.ring_all_reduce_bytes <= figures.steps * model_bytes


def test_a_running_job_tells_what_its_server_sums_and_whom_it_waits_for(seen: Seen) -> None:
    """The unit of "top" comes from both workers, and its sum goes to both; rank 1 is late."""
    ((member, figures),) = seen.status.summing
    assert (member.role, member.rank) == ("server", 0)
    assert figures.sent_bytes == 2 * figures.sums * TOP_BYTES
    assert figures.received_bytes - figures.sent_bytes in (0, TOP_BYTES), "one share may be there"
    assert (figures.last_rank, figures.sums_per_s > 1.0) == (1, True)
    assert figures.last_part > 0.9 and figures.late_s > 0.03
    assert 0.0 < figures.summing < 0.5
    (first, second) = (found["told"] for found in seen.found)
    assert set(first) == {"0"} and first["0"]["sums"] >= figures.sums and second == {}


def test_who_asks_a_worker_that_hosts_no_coordinator_is_told_whom_to_ask(seen: Seen) -> None:
    refusal, _ = seen.refusals
    assert seen.addresses[1] in refusal and "give the address of worker rank 0" in refusal


def test_who_has_another_token_is_told_nothing(seen: Seen) -> None:
    _, refusal = seen.refusals
    assert "token" in refusal


def test_a_process_that_is_asked_to_writes_its_last_events_and_goes_on(seen: Seen) -> None:
    """With SIGUSR2, in the middle of its training."""
    worker, server = seen.flights
    kinds = {row["name"] for row in worker["traceEvents"] if row["ph"] == "i"}
    assert kinds >= {"gradient ready", "sent", "received"}
    assert {row["name"] for row in server["traceEvents"] if row["ph"] == "i"} >= {"released"}
    for flight, name in ((worker, "worker 1"), (server, "server 0")):
        assert flight["otherData"]["process"] == name
        assert len([row for row in flight["traceEvents"] if row["ph"] == "i"]) <= 1001


def test_rank_0_alone_says_that_everyone_has_arrived(seen: Seen) -> None:
    """In one line where there is no terminal, with the address that `status` wants."""
    lines = [re.findall(r"^poseidon_tf: .* are here.*$", text, re.M) for text in seen.printed]
    (line,) = lines[0]
    assert lines[1] == []
    where = re.escape(seen.addresses[0])
    wanted = rf"poseidon_tf: 3 of 3 members are here \(the coordinator is {where}\), after [\d.]+ s"
    assert re.fullmatch(wanted, line), line
