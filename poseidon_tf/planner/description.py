"""A model as a file that answers without TensorFlow: its variables, and the parts of its step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from .specs import VariableSpec
from .timeline import Timeline

FORMAT = "poseidon_tf model 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """One model, as one worker trains it.

    Attributes:
        batch_size: rows of one worker's batch.
        step_flops: floating point operations of a step; 0 where they are not known.
        specs: of its trainable variables.
        needed: by variable, what part of a step is over when it is first read; 0 to 1.
        exists: by variable, what part of a step is over when its gradient exists; 0 to 1.
    """

    batch_size: int
    step_flops: int
    specs: tuple[VariableSpec, ...]
    needed: Mapping[str, float]
    exists: Mapping[str, float]

    def timeline(self, compute_s: float) -> Timeline:
        """Of a step that takes `compute_s` seconds."""
        return Timeline(
            compute_s,
            {name: share * compute_s for name, share in self.exists.items()},
            {name: share * compute_s for name, share in self.needed.items()},
        )

    def to_json(self) -> str:
        """One variable a line."""
        variables = [
            {
                **spec.to_json_dict(),
                "needed": self.needed[spec.name],
                "exists": self.exists[spec.name],
            }
            for spec in self.specs
        ]
        lines = ",\n".join(json.dumps(variable) for variable in variables)
        head = {
            "format": FORMAT,
            "batch_size": self.batch_size,
            "step_flops": self.step_flops,
        }
        return f'{json.dumps(head)[:-1]}, "variables": [\n{lines}\n]}}\n'

    @classmethod
    def from_json(cls, text: str) -> ModelDescription:
        """Read what `to_json` wrote; anything else is a `ConfigError`."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ValueError(f"its format is {data['format']!r}, not {FORMAT!r}")
            variables, batch_size, step_flops = (
                data[key] for key in ("variables", "batch_size", "step_flops")
            )
            if type(batch_size) is not int or batch_size < 1:
                raise ValueError(f"a batch of {batch_size!r}")
            if type(step_flops) is not int or step_flops < 0:
                raise ValueError(f"a step of {step_flops!r} operations")
            specs = tuple(VariableSpec.from_json_dict(each) for each in variables)
            return cls(
                batch_size=batch_size,
                step_flops=step_flops,
                specs=specs,
                needed=_shares(variables, "needed"),
                exists=_shares(variables, "exists"),
            )
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as failure:
            raise ConfigError(
                f"not a model's description: {text[:80]!r} ({failure!r}); "
                "`poseidon-tf plan MODEL.keras --describe FILE` writes one"
            ) from failure


def _shares(variables: list[dict[str, Any]], key: str) -> dict[str, float]:
    found = {str(each["name"]): float(each[key]) for each in variables}
    if not all(0 <= share <= 1 for share in found.values()):
        raise ValueError(f"{key!r} is not a part from 0 to 1")
    return found
