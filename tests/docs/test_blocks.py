"""Every block of code in the pages: it can be read, and names what there is."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import yaml

import poseidon_tf
from poseidon_tf.launcher import cli

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FENCE = re.compile(r"^ *```(?P<language>.*)$")
FOLDERS = ("docs/", "examples/", "benchmarks/", "tests/")  # Of the repository.
OTHERS = {"horovod"}  # Of the scripts that people come from.
NO_CODE = {"bibtex", "text", "proto"}
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What stands between two fences."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks() -> Iterator[Block]:
    for page in PAGES:
        begun: tuple[int, str] | None = None
        lines: list[str] = []
        for number, line in enumerate(page.read_text().splitlines(), start=1):
            if fence := FENCE.match(line):
                if begun is None:
                    begun, lines = (number, fence["language"]), []
                else:
                    text = "\n".join(lines)
                    yield Block(page=page, line=begun[0], language=begun[1], text=text)
                    begun = None
            else:
                lines.append(line)
        assert begun is None, f"{page}: a block that does not end"


ALL = list(blocks())


def of(*languages: str) -> list[Block]:
    return [block for block in ALL if block.language in languages]


def test_every_block_says_what_it_is() -> None:
    """So that each is checked by one of the tests below, or is known to be no code."""
    known = {"python", "sh", "console", "json", "yaml", *NO_CODE}
    assert [str(block) for block in ALL if block.language not in known] == []


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_python_names_what_there_is(block: Block) -> None:
    """It compiles; modules are installed; our names and their arguments exist."""
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            modules = []
        for module in modules:
            top = module.split(".")[0]
            assert top in OTHERS or importlib.util.find_spec(top), f"{block}: no module {module}"
        if ours := our_name(node):
            assert ours in poseidon_tf.__all__, f"{block}: no poseidon_tf.{ours}"
        if isinstance(node, ast.Call) and (called := our_name(node.func)):
            for keyword in node.keywords:
                assert keyword.arg in arguments(called), f"{block}: no {called}({keyword.arg}=...)"


def our_name(node: ast.AST) -> str | None:
    """X of `poseidon_tf.X`."""
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "poseidon_tf":
        return node.attr
    return None


def arguments(name: str) -> set[str]:
    """What a public class takes, read from its source: TensorFlow is not loaded for it."""
    home = "poseidon_tf.strategy.options" if name == "PoseidonStrategy" else None
    found = importlib.util.find_spec(home or poseidon_tf._HOMES[name])
    assert found is not None and found.origin is not None
    wanted = "Options" if home else name
    for node in ast.parse(Path(found.origin).read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == wanted:
            fields = {
                each.target.id
                for each in node.body
                if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
            }
            return fields | {
                argument.arg
                for each in node.body
                if isinstance(each, ast.FunctionDef) and each.name == "__init__"
                for argument in [*each.args.args, *each.args.kwonlyargs]
            }
    raise AssertionError(f"no class {wanted}")


@pytest.mark.tensorflow
def test_what_is_asked_of_a_strategy_exists() -> None:
    """`strategy.X` in the pages is a member of PoseidonStrategy."""
    strategy = poseidon_tf.PoseidonStrategy
    for block in of("python"):
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "strategy":
                assert hasattr(strategy, node.attr), f"{block}: strategy.{node.attr}"


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command of a shell; of a console, behind its prompts."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if block.language == "console":
            if not line.startswith("$ "):
                continue
            line = line[2:]
        for command in re.split(r"&&|;|\|", line.partition("  #")[0].partition(" # ")[0]):
            yield command.split()


@pytest.mark.parametrize("block", of("sh", "console"), ids=str)
def test_commands_name_what_there_is(block: Block) -> None:
    """Quotes are closed; our commands know these options; targets of make and files are there."""
    if block.language == "sh":
        shlex.split(block.text, comments=True)
    for words in commands(block):
        if "poseidon-tf" in words:
            check_ours(words[words.index("poseidon-tf") + 1 :], block)
        if words[:1] == ["make"]:
            asked = [word for word in words[1:] if "=" not in word]
            assert set(asked) <= set(TARGETS), f"{block}: {words}"
        for word in words:
            if word.startswith(FOLDERS):
                assert (ROOT / word).exists(), f"{block}: no file {word}"


def check_ours(words: list[str], block: Block) -> None:
    name, *args = shlex.split(" ".join(words))
    if name.startswith("-"):
        assert name in ("--help", "--version"), f"{block}: {name}"
        return
    assert name in cli.main.commands, f"{block}: no command {name}"
    command = cli.main.commands[name]
    context = click.Context(command, info_name=name, **command.context_settings)
    command.make_parser(context).parse_args(args)  # Raises click's NoSuchOption.


def test_data_can_be_read() -> None:
    """By what reads the like elsewhere."""
    for block in of("json", "yaml"):
        assert (json.loads if block.language == "json" else yaml.safe_load)(block.text), str(block)


def test_a_wrong_block_is_found() -> None:
    """Each check refuses what it is there for."""
    wrong = Block(page=PAGES[0], line=1, language="sh", text="poseidon-tf run --wrkers 2 train.py")
    with pytest.raises(click.NoSuchOption):
        test_commands_name_what_there_is(wrong)
    wrong = Block(page=PAGES[0], line=1, language="python", text="poseidon_tf.Deadlines(stp_s=1)")
    with pytest.raises(AssertionError):
        test_python_names_what_there_is(wrong)
