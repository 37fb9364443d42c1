"""Counting copies: what DHAT writes becomes bytes by the functions that asked for them."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PROFILE = {
    "dhatFileVersion": 2,
    "mode": "copy",
    "ftbl": [
        "[root]",
        "0x48412AF: memmove (vg_replace_strmem.c:1398)",
        "0x1A2B3C: bytes_join (bytesobject.c:12)",
        "0x99: ??? (in /usr/lib/cygrpc.so)",
    ],
    "pps": [
        {"tb": 4096, "tbk": 1, "fs": [1, 2]},
        {"tb": 100, "tbk": 2, "fs": [1, 3]},
        {"tb": 28, "tbk": 1, "fs": [1, 3]},
    ],
}


@pytest.fixture(scope="module")
def bench_copies() -> Iterator[Any]:
    """The module, which is found beside its script."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import bench_copies

        yield bench_copies
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_copies_are_counted_by_who_asked_for_them(bench_copies: Any) -> None:
    found = bench_copies.copies(PROFILE)
    assert found == {("memmove", "bytes_join"): 4096, ("memmove", "???"): 128}
    assert found.total() == 4096 + 128


def test_each_host_counts_into_a_file_of_its_own(bench_copies: Any, tmp_path: Path) -> None:
    hosts = bench_copies.CountedHosts(bench_copies.LoopbackHosts(2), tmp_path)
    first, second = (hosts.command(host, ["python", "script.py"]) for host in (0, 1))
    assert first[-2:] == second[-2:] == ["python", "script.py"]
    assert first[0] == "valgrind" and "--mode=copy" in first
    assert f"--dhat-out-file={tmp_path / '0.json'}" in first
    assert f"--dhat-out-file={tmp_path / '1.json'}" in second
