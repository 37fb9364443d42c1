"""The walk in CONTRIBUTING, "Follow one gradient", leads through files that lead to each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tests.test_layering import imported_files, sources

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"
ROW = re.compile(r"\| (\d+) \| `([\w/.]+)` \| [^|]* \| ?([^|]*)\|")


class Step(NamedTuple):
    file: str
    importers: list[int]
    through: str  # A file beside it that comes between; empty if none does.


def walk() -> dict[int, Step]:
    steps = {}
    for number, file, told in ROW.findall(PAGE.read_text()):
        beside = re.search(r"`([\w.]+)`", told)
        numbers = [int(each) for each in re.findall(r"\b\d+\b", told)]
        steps[int(number)] = Step(file, numbers, beside[1] if beside else "")
    return steps


def test_a_dozen_files_at_most_are_named_in_order() -> None:
    steps = walk()
    assert 0 < len(steps) <= 12
    assert list(steps) == list(range(1, len(steps) + 1))


def test_each_file_is_there_and_is_imported_by_those_that_are_named() -> None:
    """So a reader gets from one to the next by its imports."""
    steps, files = walk(), sources()
    for number, step in steps.items():
        assert step.file in files, step.file
        assert bool(step.importers) == (number > 1), step
        for importer in step.importers:
            reached = imported_files(steps[importer].file, files)
            if step.through:
                between = str(Path(step.file).parent / step.through)
                assert between in reached
                reached = imported_files(between, files)
            assert step.file in reached, f"{steps[importer].file} does not import {step.file}"
