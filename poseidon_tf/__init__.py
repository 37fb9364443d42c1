"""Wait-free, hybrid-communication data parallel training for TensorFlow and Keras.

    strategy = poseidon_tf.PoseidonStrategy()
    with strategy.scope():
        model = ...
        model.compile(...)
    model.fit(...)

Importing this package loads neither TensorFlow nor gRPC; the first use of a name does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poseidon_tf.errors import ConfigError as ConfigError
    from poseidon_tf.errors import DriftError as DriftError
    from poseidon_tf.errors import MemberError as MemberError
    from poseidon_tf.errors import NumericsError as NumericsError
    from poseidon_tf.errors import PeerLost as PeerLost
    from poseidon_tf.errors import PlanError as PlanError
    from poseidon_tf.errors import PoseidonError as PoseidonError
    from poseidon_tf.errors import ProtocolError as ProtocolError
    from poseidon_tf.errors import StartTimeout as StartTimeout
    from poseidon_tf.errors import StepTimeout as StepTimeout
    from poseidon_tf.launch.poseidon_strategy import PoseidonStrategy as PoseidonStrategy
    from poseidon_tf.planner import Plan as Plan
    from poseidon_tf.session.deadlines import Deadlines as Deadlines
    from poseidon_tf.session.statistics import Statistics as Statistics
    from poseidon_tf.strategy.tape.gradient_tape import GradientTape as GradientTape
    from poseidon_tf.transport.security import Security as Security

__version__ = "0.1.0"

_HOMES = {
    "ConfigError": "poseidon_tf.errors",
    "Deadlines": "poseidon_tf.session.deadlines",
    "DriftError": "poseidon_tf.errors",
    "GradientTape": "poseidon_tf.strategy.tape.gradient_tape",
    "MemberError": "poseidon_tf.errors",
    "NumericsError": "poseidon_tf.errors",
    "PeerLost": "poseidon_tf.errors",
    "Plan": "poseidon_tf.planner",
    "PlanError": "poseidon_tf.errors",
    "PoseidonError": "poseidon_tf.errors",
    "PoseidonStrategy": "poseidon_tf.launch.poseidon_strategy",
    "ProtocolError": "poseidon_tf.errors",
    "Security": "poseidon_tf.transport.security",
    "StartTimeout": "poseidon_tf.errors",
    "Statistics": "poseidon_tf.session.statistics",
    "StepTimeout": "poseidon_tf.errors",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
