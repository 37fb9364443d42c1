"""A hook of mkdocs: the site has the repository's files that its pages link to.

A page links to them as they lie, such as `../examples/digits.py`, so that its links work in the
repository too. In the site they are copies below `repository/`.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
COPIED = "examples"  # The folder that pages link to.
PAGES = {"README.md": "index.md"}  # What the site has a page for.
LINK = re.compile(r"(?<=\]\()((?:\.\./)+[^)#\s]+)")


def on_files(files: Files, *, config: Any) -> Files:
    """The examples are part of the site."""
    for path in sorted((ROOT / COPIED).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            name = f"repository/{path.relative_to(ROOT).as_posix()}"
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Links that leave `docs/` lead to those copies; mkdocs checks that they are there."""
    folder = posixpath.dirname(page.file.src_uri)

    def within_the_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", folder, link[1]))
        if target.startswith("docs/"):
            return link[1]
        return posixpath.relpath(PAGES.get(target, f"repository/{target}"), folder or ".")

    return LINK.sub(within_the_site, markdown)
