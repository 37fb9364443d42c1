"""docs/troubleshooting.md explains every error, and nothing that is not said any more."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.messages import GAP, PACKAGE, Message, messages

PAGE = (PACKAGE.parent / "docs" / "troubleshooting.md").read_text()
SAID = [message for message in messages() if not message.is_another]
LEAST = 8  # Letters: a shorter text would fit by chance.


def quoted() -> list[str]:
    """What stands in code in the first cells of the tables, up to the sections by class."""
    tables = PAGE[: PAGE.index("## Errors of members")]
    cells = re.findall(r"^\| (`.*?`) \| ", tables, re.MULTILINE)
    return [text for cell in cells for text in re.findall(r"`([^`]+)`", cell)]


def stands_in(quote: str, message: Message) -> bool:
    """Whether the message has the quote in it, whose `...` stand for what is filled in."""
    return quote.replace("...", GAP) in message.text


def test_every_message_of_an_error_that_a_user_can_mend_is_explained() -> None:
    """Of ConfigError and PlanError, and what raises ValueError or NotImplementedError in a step."""
    assert len(SAID) > 140
    quotes = quoted()
    missing = [
        f"{message.where}: {message.text}"
        for message in SAID
        if not any(stands_in(quote, message) for quote in quotes)
    ]
    assert not missing, "add to docs/troubleshooting.md:\n" + "\n".join(missing)


def test_every_message_that_is_explained_exists() -> None:
    """A text that has changed, or that no error has any more, is changed on the page too."""
    stale = [quote for quote in quoted() if not any(stands_in(quote, each) for each in SAID)]
    assert not stale


def test_a_quote_is_long_enough_to_be_found() -> None:
    """One that fits many messages explains none."""
    short = [
        quote
        for quote in quoted()
        if sum(letter.isalpha() for letter in quote) < LEAST and not quote.startswith("--")
    ]
    fits_all = [quote for quote in quoted() if sum(stands_in(quote, each) for each in SAID) > 4]
    assert not short and not fits_all


def error_classes() -> list[str]:
    tree = ast.parse((PACKAGE / "errors.py").read_text())
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


@pytest.mark.parametrize("name", sorted(set(error_classes()) - {"PoseidonError"}))
def test_every_class_of_error_has_a_place_on_the_page(name: str) -> None:
    """The two of users have tables; each other class has a section."""
    if name in ("ConfigError", "PlanError"):
        assert f"`{name}`" in PAGE
    else:
        assert f"\n### {name}\n" in PAGE
