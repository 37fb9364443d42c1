"""An extension of griffe: a `PoseidonStrategy` takes the fields of its `Options`."""

from __future__ import annotations

from typing import Any

import griffe


class Signatures(griffe.Extension):
    """Reads no code that runs: `@takes(Options)` does the same for people who ask Python."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        options = pkg["strategy.options.Options"]
        init = pkg["launch.poseidon_strategy.PoseidonStrategy.__init__"]
        init.parameters = griffe.Parameters(
            griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword),
            *(
                griffe.Parameter(
                    field.name,
                    annotation=field.annotation,
                    kind=griffe.ParameterKind.keyword_only,
                    default=field.value,
                )
                for field in options.attributes.values()
            ),
        )
