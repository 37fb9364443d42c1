"""``poseidon-tf probe`` as users start it: real processes, with TF_CONFIG, without TensorFlow."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from poseidon_tf.launcher.cli import main
from tests.support.ports import free_addresses

PROBE = (
    "import sys\nfrom poseidon_tf.launcher.cli import main\n"
    "try:\n    main(sys.argv[1:])\n"
    "finally:\n    assert 'tensorflow' not in sys.modules"
)


@pytest.fixture(autouse=True, scope="module")
def claimed_ports() -> None:
    """This test process keeps its range of ports from here on, and a socket that says so."""
    free_addresses(1)


def start(
    cluster: dict[str, list[str]], kind: str, index: int, *args: str
) -> subprocess.Popen[str]:
    config = {"cluster": cluster, "task": {"type": kind, "index": index}}
    return subprocess.Popen(
        [sys.executable, "-c", PROBE, "probe", *args],
        env={**os.environ, "TF_CONFIG": json.dumps(config)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )


def printed(processes: list[subprocess.Popen[str]]) -> list[str]:
    """What each of them printed on standard output, if all end well."""
    try:
        found = [process.communicate(timeout=100)[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * len(processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return found


@pytest.mark.processes
def test_rank_0_prints_what_all_have_measured() -> None:
    """Three workers, each with a server of its own; the others print nothing."""
    cluster = {"worker": free_addresses(3)}
    first, *others = printed([start(cluster, "worker", rank) for rank in range(3)])
    assert others == ["", ""]
    lines = first.splitlines()
    header = [f"worker {rank}" for rank in range(3)] + [f"server {index}" for index in range(3)]
    for name in header:
        assert name in lines[1]
    for rank in range(3):
        row = lines[3 + rank].split()
        assert row[:2] == ["worker", str(rank)]
        assert len(row) == 2 + len(header) + len(["link"])
        assert row[2 + rank] == "-"
        assert row[2 + 3 + rank] == "memory"
    assert "Measured in " in first


@pytest.mark.processes
def test_servers_of_their_own_take_part_and_json_is_for_programs() -> None:
    """A process that is told to be a server serves, whichever command has started it."""
    addresses = free_addresses(3)
    cluster = {"worker": addresses[:2], "ps": addresses[2:]}
    members = [start(cluster, "worker", rank, "--json", "--protocol", "grpc") for rank in range(2)]
    first, second, _ = printed([*members, start(cluster, "ps", 0)])
    assert second == ""
    found = json.loads(first)
    assert [len(each["servers"]) for each in found["workers"]] == [1, 1]
    for rank, each in enumerate(found["workers"]):
        assert each["link_bits_per_s"] > 0
        assert each["own_server"] is None
        assert each["workers"][1 - rank]["bits_per_s"] > 0
        assert each["servers"][0]["round_trip_s"] > 0
    assert found["took_s"] > 0


@pytest.mark.connections
def test_a_process_that_is_alone_has_nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    result = CliRunner().invoke(main, ["probe"])
    assert result.exit_code == 2
    assert "nothing shows that this process is one of several" in result.output
