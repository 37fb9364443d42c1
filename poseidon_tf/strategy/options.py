"""What a user may choose: one object that has checked itself and is handed on whole."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, get_args

import tensorflow as tf

from poseidon_tf.errors import ConfigError
from poseidon_tf.planner import (
    DEFAULT_COALESCE_BYTES,
    DEFAULT_KV_PAIR_BYTES,
    Plan,
    Scheme,
    WireDtype,
    check_coalesce_bytes,
    check_kv_pair_bytes,
    check_wire_dtype,
    read_plan,
)
from poseidon_tf.session.deadlines import Deadlines
from poseidon_tf.transport.connections import Protocol
from poseidon_tf.transport.security import Security

Clip = Literal["sum", "local"]
WriteOn = Literal["chief", "all"]
LossWeighting = Literal["replica", "sample"]
DeferUpdates = Literal["auto", True, False]
OnResize = Literal["keep_global_batch", "keep_worker_batch"]
Show = Literal["print", "log", "none"]
PlanBy = Literal["bytes", "time"]
_P = ParamSpec("_P")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a `PoseidonStrategy`, where each is explained.

    Raises:
      ConfigError: one of them is not what it may be.
    """

    schemes: Mapping[str, str] | None = None
    kv_pair_bytes: int = DEFAULT_KV_PAIR_BYTES
    coalesce_bytes: int = DEFAULT_COALESCE_BYTES
    wire_dtype: WireDtype = None
    plan: Plan | str | Path | None = None  # A file is read: then it is the Plan in it.
    plan_by: PlanBy = "bytes"
    step_seconds: float | None = None
    probe: bool = False
    rows_per_step: int | None = None
    clip: Clip = "sum"
    devices: Sequence[str] | None = None
    write_on: WriteOn = "chief"
    loss_weighting: LossWeighting = "replica"
    defer_updates: DeferUpdates = "auto"
    on_resize: OnResize = "keep_global_batch"
    drift_check_steps: int = 1000
    check_numerics: bool = False
    show_plan: Show = "print"
    show_summary: Show = "print"
    cluster_resolver: tf.distribute.cluster_resolver.ClusterResolver | None = None
    alone: bool = False
    ports: tuple[int, int] | None = None
    interface: str | None = None
    protocol: Protocol | None = None
    deadlines: Deadlines = Deadlines()  # None stands for these too.
    timeline_dir: str | None = None
    metrics_port: int | None = None
    security: Security | None = None

    def __post_init__(self) -> None:
        if self.deadlines is None:
            object.__setattr__(self, "deadlines", Deadlines())
        if self.rows_per_step is not None and self.rows_per_step < 1:
            raise ConfigError(f"rows_per_step must be 1 or more, got {self.rows_per_step}")
        for pattern, scheme in (self.schemes or {}).items():
            _check(f"schemes[{pattern!r}]", scheme, [str(each) for each in Scheme])
        for name, choices in (
            ("plan_by", PlanBy),
            ("clip", Clip),
            ("write_on", WriteOn),
            ("loss_weighting", LossWeighting),
            ("defer_updates", DeferUpdates),
            ("on_resize", OnResize),
            ("show_plan", Show),
            ("show_summary", Show),
        ):
            _check(name, getattr(self, name), get_args(choices))
        if self.step_seconds is not None and not 0 < self.step_seconds < math.inf:
            raise ConfigError(f"step_seconds must be more than 0, got {self.step_seconds}")
        if self.step_seconds is not None and self.plan_by != "time":
            raise ConfigError("step_seconds is for plan_by='time', and plan_by is 'bytes'")
        if self.plan is not None and self.plan_by == "time":
            raise ConfigError("plan= says how every variable travels; leave it or plan_by out")
        if self.plan is not None:
            if self.schemes or self.wire_dtype:
                raise ConfigError(
                    "plan= says how every variable travels, and so do schemes and wire_dtype; "
                    "leave these out, or the plan"
                )
            if not isinstance(self.plan, Plan):
                object.__setattr__(self, "plan", read_plan(self.plan))
        if self.protocol is not None:
            _check("protocol", self.protocol, get_args(Protocol))
        if self.alone and self.cluster_resolver is not None:
            raise ConfigError(
                "alone=True trains without others, and cluster_resolver says who they are; leave "
                "one of them out"
            )
        if self.drift_check_steps < 0:
            raise ConfigError(
                f"drift_check_steps must be 1 or more, or 0 for never, got {self.drift_check_steps}"
            )
        if self.ports is not None and not 0 < self.ports[0] <= self.ports[1] < 65536:
            raise ConfigError(f"ports must be (first, last) within 1..65535, got {self.ports}")
        if self.metrics_port is not None and not 0 < self.metrics_port < 65536:
            raise ConfigError(f"metrics_port must be within 1..65535, got {self.metrics_port}")
        check_kv_pair_bytes(self.kv_pair_bytes)
        check_coalesce_bytes(self.coalesce_bytes)
        check_wire_dtype(self.wire_dtype)

    @property
    def measures(self) -> bool:
        """Whether links and processors are measured when the job starts."""
        return self.probe or self.plan_by == "time"


def _check(name: str, value: object, choices: Sequence[object]) -> None:
    if value not in choices:
        *first, last = [repr(choice) for choice in choices]
        raise ConfigError(f"{name} must be {', '.join(first)} or {last}, got {value!r}")


def takes(
    source: Callable[_P, Any],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, _P], None]]:
    """Declares a method whose arguments are those of `source`, for people and type checkers."""

    def declare(method: Callable[..., None]) -> Callable[Concatenate[Any, _P], None]:
        this, *_ = inspect.signature(method).parameters.values()
        parameters = [this, *inspect.signature(source).parameters.values()]
        method.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return method

    return declare
