"""The messages of errors as they stand in the source, with a gap for what is filled in."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "poseidon_tf"
GAP = "\0"
MAKERS = {"ConfigError", "PlanError", "NotImplementedError", "_refused"}
"""What a script may do about; `_refused` makes a PlanError of its second argument."""
VALUE_ERRORS = {"strategy", "keras_hooks"}  # Elsewhere a ValueError never reaches a script.
FUNCTIONS = {  # Whose text some error has: by the variable that holds it there.
    "difference": ("strategy/data/seeds.py", "seed_difference"),
    "_REFUSAL": ("strategy/versions.py", "refusal"),
}
PASSED_ON = {"reason", "str(failure)"}  # The argument of `_refused`; the text of another error.


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A text that somebody may read.

    Attributes:
      where: its file and line.
      text: GAP stands for each value.
    """

    where: str
    text: str

    @property
    def is_another(self) -> bool:
        """Whether it only puts a name in front of another error's message."""
        return sum(letter.isalpha() for letter in self.text) < 8


def messages() -> list[Message]:
    """All that the package says in an error that its user can mend."""
    return [each for path in sorted(PACKAGE.rglob("*.py")) for each in _of(path)]


def _of(path: Path) -> Iterator[Message]:
    tree = ast.parse(path.read_text())
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }
    name = path.relative_to(PACKAGE).as_posix()
    makers = MAKERS | ({"ValueError"} if name.split("/")[0] in VALUE_ERRORS else set())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in makers and node.args:
                text = _text(node.args[-1], constants)
                if text is None:
                    said = ast.unparse(node.args[-1])
                    assert said in {*FUNCTIONS, *PASSED_ON}, f"{name}:{node.lineno} says {said}"
                else:
                    yield Message(where=f"{name}:{node.lineno}", text=text)
        if isinstance(node, ast.FunctionDef) and (name, node.name) in FUNCTIONS.values():
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return) and inner.value is not None:
                    if text := _text(inner.value, constants):
                        yield Message(where=f"{name}:{inner.lineno}", text=text)


def _text(node: ast.expr, constants: dict[str, str]) -> str | None:
    """The text that `node` makes; None where it is not written there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not isinstance(node, ast.JoinedStr):
        return None
    parts = []
    for part in node.values:
        inner = part.value if isinstance(part, ast.FormattedValue) else part
        if isinstance(inner, ast.Name) and inner.id in constants:
            parts.append(constants[inner.id])
        elif isinstance(inner, ast.Constant):
            parts.append(str(inner.value))
        else:
            parts.append(GAP)
    return "".join(parts)
