"""The model of a step against what others have published."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
DOCS = BENCHMARKS.parent / "docs"


@pytest.fixture(scope="module")
def published() -> Iterator[Any]:
    """The module, which is found beside its script."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import published_curves

        yield published_curves
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def data(published: Any) -> dict[str, Any]:
    return json.loads(published.DATA.read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def curves(published: Any, data: dict[str, Any]) -> list[Any]:
    return list(published.curve_rows(data))


def test_published_speedups_are_redrawn_with_the_mean_error_that_the_docs_state(
    published: Any, curves: list[Any]
) -> None:
    """4.3 % where sending begins during backpropagation; 11.4 % with the one where it does not."""
    overlapped = [row for row in curves if row.is_overlapped]
    assert published.mean_error(overlapped) == pytest.approx(0.043, abs=0.002)
    assert published.mean_error(curves) == pytest.approx(0.114, abs=0.002)
    text = (DOCS / "foresight.md").read_text()
    assert "mean error is 4.3 %" in text and "11.4 %" in text


def test_every_published_figure_is_within_the_bound_of_its_curve(
    published: Any, data: dict[str, Any], curves: list[Any]
) -> None:
    for row in [*curves, *published.gain_rows(data)]:
        assert abs(row.error) <= row.bound, row


def test_where_the_model_is_far_off_the_data_say_why(
    published: Any, data: dict[str, Any], curves: list[Any]
) -> None:
    """A tenth is far; every figure has a source."""
    rows = [*curves, *published.gain_rows(data)]
    assert {row.name for row in rows if abs(row.error) > 0.1} <= {
        row.name for row in rows if row.why
    }
    assert all(entry["source"] for entry in (*data["curves"], *data["gains"]))


def test_the_authors_seconds_become_the_speedups_that_they_plotted(curves: list[Any]) -> None:
    """Over plain Caffe on one node, 18.5 s for 20 iterations: 18.5 / 20.1 x 32 = 29.45."""
    poseidon = {row.workers: row.published for row in curves if row.name.startswith("Poseidon, C")}
    assert poseidon[32] == pytest.approx(29.45, abs=0.01)
    assert poseidon[2] == pytest.approx(1.96, abs=0.01)


def test_the_docs_have_the_table_that_the_model_gives(
    published: Any, data: dict[str, Any], curves: list[Any]
) -> None:
    text = (DOCS / "foresight.md").read_text()
    assert published.table(curves) in text
    assert published.table(published.gain_rows(data)) in text


@pytest.mark.processes
def test_published_figures_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "published.svg"
    command = [sys.executable, str(BENCHMARKS / "published_curves.py"), "--plot", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "mean error 4.3%" in done.stdout
    assert "<!-- all points -->" in path.read_text()


def test_who_is_fastest_on_how_many_workers(published: Any) -> None:
    """Three cells of the docs' table: factors for few, rings of rings for many."""
    import who_wins

    few, many = who_wins.points("alexnet", 10.0, [8, 512])
    assert who_wins.winners(few) == ("SFB",)
    assert who_wins.winners(many) == ("hierarchical all-reduce",)
    (fast,) = who_wins.points("vgg19", 100.0, [2])
    assert who_wins.winners(fast) == who_wins.WAYS
    row = [
        line for line in (DOCS / "foresight.md").read_text().splitlines() if "alexnet | 10 " in line
    ]
    assert "SFB: 84%" in row[0] and "hierarchical: 4" in row[0]
