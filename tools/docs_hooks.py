"""MkDocs hooks: insert the generated reference pages, and rewrite links to files of the repository."""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "clients")]

import reference_docs  # noqa: E402  # the folder of this file is not on MkDocs' path

_MARK = re.compile(r"<!-- generated: (\w+) -->")
_INCLUDE = re.compile(r"<!-- include: (\S+) -->")
_LINK = re.compile(r"(\]\()((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Replace the marks for generated and included text, and point links out of ``docs/`` to the repository's site."""

    def generated(match: re.Match[str]) -> str:
        return reference_docs.GENERATORS[match[1]]()

    def included(match: re.Match[str]) -> str:
        # Links in the file are relative to the repository's root, those in the page to its folder
        up = "../" * (page.file.src_uri.count("/") + 1)
        text = (ROOT / match[1]).read_text(encoding="utf-8").split("\n", 1)[1]
        return re.sub(r"\]\((?!https?://|#)", f"]({up}", text)

    def link(match: re.Match[str]) -> str:
        folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        if target.startswith("docs/"):
            here = posixpath.relpath(target, folder)
            return f"{match[1]}{here}{match[3] or ''})"
        if not (ROOT / target).exists():
            raise PluginError(f"{page.file.src_uri}: {match[2]} does not exist in the repository")
        return f"{match[1]}{config.extra['repository']}/blob/main/{target}{match[3] or ''})"

    markdown = _INCLUDE.sub(included, markdown)
    return _LINK.sub(link, _MARK.sub(generated, markdown))
