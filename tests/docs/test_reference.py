"""The pages of reference are complete."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE, DOCS = ROOT / "poseidon_tf", ROOT / "docs"
VARIABLE = re.compile(
    "(POSEIDON|TF|KERAS|JAX|SM|SLURM|PMI|PMIX|OMPI|MV2|MPI|PET|TORCHELASTIC|MASTER|KUBERNETES)"
    "_[A-Z0-9_]*[A-Z0-9]|RANK|WORLD_SIZE|HOSTNAME"
)
READERS = ["launch", "launcher"]  # What looks into an environment, besides one file below.


def literals(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_variable_of_the_environment_is_listed() -> None:
    """All that `launch` reads, and all that it sets."""
    page = (DOCS / "reference" / "environment.md").read_text()
    paths = [path for name in READERS for path in sorted((PACKAGE / name).rglob("*.py"))]
    paths.append(PACKAGE / "strategy" / "arithmetic.py")
    read = {text for path in paths for text in literals(path) if VARIABLE.fullmatch(text)}
    assert len(read) > 40
    assert sorted(name for name in read if f"`{name}`" not in page) == []


def test_every_option_of_the_strategy_is_listed() -> None:
    """And no other."""
    page = (DOCS / "options.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    (options,) = [
        node
        for node in ast.parse((PACKAGE / "strategy" / "options.py").read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "Options"
    ]
    fields = [
        node.target.id
        for node in options.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    assert sorted(listed) == sorted(fields)


def test_every_public_name_is_on_a_page_of_reference() -> None:
    """mkdocstrings writes them there, from their docstrings."""
    pages = "\n".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    shown = re.findall(r"^::: poseidon_tf\.(?:errors\.)?(\w+)$", pages, re.MULTILINE)
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (homes,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES"
    ]
    assert sorted(shown) == sorted(ast.literal_eval(homes))
