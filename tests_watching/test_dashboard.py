"""The dashboard is what Grafana's own classes for dashboards hold: no more, and of these types."""

from __future__ import annotations

import enum
import json
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests_watching.test_prometheus import DASHBOARD, dashboard

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module", autouse=True)
def kinds_of_panels() -> None:
    """They are plugins, to Grafana as well."""
    register_default_plugins()


def faults(given: dict[str, Any]) -> list[str]:
    """What Grafana does not know, or knows as something else."""
    read = Dashboard.from_json(given)
    return [*_lost(given, json.loads(JSONEncoder().encode(read)), ""), *_wrong(read, "")]


def _lost(given: Any, kept: Any, where: str) -> Iterator[str]:
    """What is not there any more when it was read and written."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            if name in kept:
                yield from _lost(value, kept[name], f"{where}/{name}")
            else:
                yield f"{where}/{name} is unknown"
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for at, (value, other) in enumerate(zip(given, kept, strict=True)):
            yield from _lost(value, other, f"{where}/{at}")
    elif given != kept:
        yield f"{where} is {given!r}, and {kept!r} when it was read"


def _wrong(value: Any, where: str) -> Iterator[str]:
    """What has another type than its class declares."""
    if isinstance(value, list):
        for at, each in enumerate(value):
            yield from _wrong(each, f"{where}/{at}")
    elif type(value).__module__.startswith("grafana_foundation_sdk."):
        hints = typing.get_type_hints(type(value))
        for name, part in vars(value).items():
            if name in hints and not _fits(part, hints[name]):
                yield f"{where}/{name} is {part!r}, not {hints[name]}"
            yield from _wrong(part, f"{where}/{name}")


def _fits(value: Any, hint: Any) -> bool:
    kind, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object:
        return True
    if kind in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if kind is typing.Literal:
        return value in arguments
    if kind is list:
        return isinstance(value, list) and all(_fits(each, arguments[0]) for each in value)
    if kind is dict:
        return isinstance(value, dict) and all(_fits(v, arguments[1]) for v in value.values())
    if isinstance(hint, type) and issubclass(hint, enum.Enum):  # It is read as it stands.
        return value in [each.value for each in hint]
    is_number = hint in (int, float) and isinstance(value, int | float)
    return (is_number and not isinstance(value, bool)) or isinstance(value, hint)


def test_grafana_knows_all_that_the_dashboard_says() -> None:
    found = Dashboard.from_json(dashboard())
    assert {type(panel.options).__module__.rpartition(".")[2] for panel in found.panels} == {
        "stat",
        "timeseries",
    }
    assert faults(dashboard()) == []


@pytest.mark.parametrize(
    "change, fault",
    [
        (lambda d: d["panels"][0].update(titel="x"), "/panels/0/titel is unknown"),
        (lambda d: d["panels"][0]["gridPos"].update(w="6"), "/panels/0/grid_pos/w is '6'"),
        (lambda d: d["panels"][0]["options"].update(colorMode="red"), "/color_mode is 'red'"),
        (lambda d: d["panels"][4]["targets"][0].update(expr=5), "/targets/0/expr is 5"),
        (lambda d: d["panels"][4]["targets"][0].update(legend=""), "/targets/0/legend is unknown"),
        (lambda d: d["templating"]["list"][1].update(type="number"), "/type_val is 'number'"),
    ],
)
def test_what_grafana_does_not_know_is_found(change: Change, fault: str) -> None:
    """So that the test above can fail."""
    changed = json.loads(DASHBOARD.read_text())
    change(changed)
    (found,) = faults(changed)
    assert fault in found
