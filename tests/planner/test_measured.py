"""What follows from workers' figures: links, slow ways, and the machines of the model."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from poseidon_tf.errors import ProtocolError
from poseidon_tf.launcher.probe_view import as_json, as_text
from poseidon_tf.planner.measured import Measured, Seen, SlowWay, Way, joined

GBIT = 1e9
NOTHING = Way(0.0, 0.0)


def seen(
    rank: int, rates: list[float], servers: list[float], *, own_server: int | None = None
) -> Seen:
    """What worker `rank` receives of each worker and server, in Gbit/s; it is none of the first."""
    return Seen(
        host=f"host {rank}",
        cores=8,
        servers=tuple(Way(0.002, rate * GBIT) for rate in servers),
        workers=tuple(Way(0.001, rate * GBIT) if rate else NOTHING for rate in rates),
        own_server=own_server,
        sum_s=0.0014,
        sums_bits_per_s=0.5 * GBIT,
        message_s=0.0001,
        byte_s=1e-9,
        sum_byte_s=2e-10,
    )


def measured(*each: Seen) -> Measured:
    return Measured(seen=each, took_s=0.5)


EQUAL = measured(
    seen(0, [0.0, 4.0, 5.0], [3.0]),
    seen(1, [5.0, 0.0, 4.0], [3.0]),
    seen(2, [4.0, 5.0, 0.0], [3.0]),
)
SLOW_WORKER = measured(
    seen(0, [0.0, 9.0, 0.5], [0.3]),
    seen(1, [9.0, 0.0, 0.5], [0.3]),
    seen(2, [0.5, 0.5, 0.0], [0.3]),
)


def test_a_link_carries_what_all_its_ways_carry() -> None:
    """At 4 and 5 Gbit/s twice 4: the faster was through by then. Sums count if they took more."""
    assert [EQUAL.link_bits_per_s(rank) for rank in range(3)] == [8 * GBIT] * 3
    assert [SLOW_WORKER.link_bits_per_s(rank) for rank in range(3)] == [9 * GBIT, 9 * GBIT, GBIT]
    one_way = measured(seen(0, [0.0, 4.0], [3.0]), seen(1, [6.0, 0.0], [3.0]))
    assert [one_way.link_bits_per_s(rank) for rank in range(2)] == [6 * GBIT] * 2
    by_sums = measured(replace(one_way.seen[0], sums_bits_per_s=8 * GBIT), one_way.seen[1])
    assert [by_sums.link_bits_per_s(rank) for rank in range(2)] == [8 * GBIT, 6 * GBIT]


def test_ways_to_and_from_a_slow_worker_are_slow() -> None:
    """Four of six ways are slow, so what is usual is not what most have."""
    assert EQUAL.slow_ways() == []
    found = {(way.sender, way.receiver) for way in SLOW_WORKER.slow_ways()}
    assert found == {
        ("worker 2", "worker 0"),
        ("worker 2", "worker 1"),
        ("worker 0", "worker 2"),
        ("worker 1", "worker 2"),
    }
    assert SLOW_WORKER.slow_ways()[0] == SlowWay("worker 0", "worker 2", 0.5 * GBIT, 9 * GBIT)


def test_one_direction_may_be_slow_between_two() -> None:
    found = measured(seen(0, [0.0, 9.0], [3.0]), seen(1, [2.0, 0.0], [3.0]))
    assert found.slow_ways() == [SlowWay("worker 0", "worker 1", 2 * GBIT, 9 * GBIT)]


def test_sums_of_a_slow_server_come_slowly_to_all() -> None:
    """A worker's own server shares memory with it, and so proves nothing."""
    ranks = [[0.0, 5.0], [5.0, 0.0]]
    found = measured(*(seen(rank, ranks[rank], [4.0, 1.0, 4.0]) for rank in range(2)))
    assert [(way.sender, way.receiver) for way in found.slow_ways()] == [
        ("server 1", "worker 0"),
        ("server 1", "worker 1"),
    ]
    slow_server = found.machines().slow_server
    assert slow_server is not None
    assert slow_server.bits_per_s == pytest.approx(5 * GBIT / 4)
    own = measured(*(seen(rank, ranks[rank], [1.0, 4.0], own_server=0) for rank in range(2)))
    assert own.slow_ways() == []
    assert own.machines().slow_server is None


def test_the_machines_of_the_model_have_these_figures() -> None:
    """A sum of one number in 1.4 ms: two latencies, and four times 0.1 ms for a message."""
    machines = EQUAL.machines(devices=2)
    assert machines.link.bits_per_s == 8 * GBIT
    assert machines.link.latency_s == pytest.approx(0.0005)
    assert (machines.slow_worker, machines.slow_server, machines.devices) == (None, None, 2)
    assert machines.host is not None
    assert (machines.host.cores, machines.host.message_s) == (8, 0.0001)
    assert (machines.host.byte_s, machines.host.sum_byte_s) == (1e-9, 2e-10)
    assert machines.flops_per_s is None
    slow = SLOW_WORKER.machines().slow_worker
    assert slow is not None
    assert slow.bits_per_s == 1 * GBIT


def test_the_slowest_device_counts_and_workers_of_a_host_share_its_cores() -> None:
    first, second, third = EQUAL.seen
    found = measured(
        replace(first, host="same", flops_per_s=3e12),
        replace(second, host="same", flops_per_s=2e12),
        third,
    ).machines()
    assert found.flops_per_s == 2e12
    assert found.host is not None
    assert found.host.cores == 4


def test_a_message_that_takes_longer_than_the_sum_leaves_no_latency() -> None:
    found = measured(*(replace(each, message_s=0.01) for each in EQUAL.seen))
    assert found.machines().link.latency_s == 0.0


def test_what_workers_tell_each_other_is_read_back() -> None:
    texts = [replace(each, flops_per_s=1e12).to_json() for each in EQUAL.seen]
    found = joined(texts, num_servers=1, took_s=0.5)
    assert found.seen == tuple(replace(each, flops_per_s=1e12) for each in EQUAL.seen)


@pytest.mark.parametrize(
    "change",
    [
        {"cores": 0},
        {"cores": "8"},
        {"host": 1},
        {"sum_s": -1.0},
        {"sum_s": float("nan")},
        {"byte_s": "1"},
        {"message_s": True},
        {"servers": [[1.0]]},
        {"workers": 3},
        {"own_server": 1.5},
        {"flops_per_s": float("inf")},
    ],
)
def test_what_is_no_figure_is_refused(change: dict[str, object]) -> None:
    data = json.loads(EQUAL.seen[0].to_json()) | change
    with pytest.raises(ProtocolError, match="not a worker's figures"):
        joined([json.dumps(data)], num_servers=1, took_s=0.5)


def test_figures_of_another_cluster_are_refused() -> None:
    texts = [each.to_json() for each in EQUAL.seen]
    with pytest.raises(
        ProtocolError, match="rank 0 has measured 3 workers and 1 servers; there are 2"
    ):
        joined(texts[:2], num_servers=1, took_s=0.5)
    with pytest.raises(ProtocolError, match="not a worker's figures: 'no JSON'"):
        joined(["no JSON"], num_servers=1, took_s=0.5)


def test_slow_ways_are_marked_in_the_matrix() -> None:
    lines = as_text(SLOW_WORKER).splitlines()
    assert lines[1].split() == ["worker", "0", "worker", "1", "worker", "2", "server", "0", "link"]
    cells = [line.split()[2:] for line in lines[3:6]]
    assert cells == [
        ["-", "9.00", "0.50!", "0.30", "9.00"],
        ["9.00", "-", "0.50!", "0.30", "9.00"],
        ["0.50!", "0.50!", "-", "0.30", "1.00"],
    ]
    assert "! slow: worker 0 to worker 2, 500 Mbit/s; usual are 9 Gbit/s" in lines
    assert sum(line.startswith("! slow") for line in lines) == 4
    assert not any("!" in line for line in as_text(EQUAL).splitlines())


def test_json_has_figures_and_slow_ways() -> None:
    found = json.loads(json.dumps(as_json(SLOW_WORKER)))
    assert found["workers"][2]["link_bits_per_s"] == 1 * GBIT
    assert found["workers"][0]["servers"] == [{"round_trip_s": 0.002, "bits_per_s": 0.3 * GBIT}]
    assert found["slow"][0] == {
        "sender": "worker 0",
        "receiver": "worker 2",
        "bits_per_s": 0.5 * GBIT,
        "usual_bits_per_s": 9 * GBIT,
    }
