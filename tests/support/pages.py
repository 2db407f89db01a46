"""Reading Markdown pages in tests: fenced samples, tables, headings, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Every page that people read.
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")]

_FENCE = re.compile(r"^```(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")


def fences(text: str, info: str = "") -> list[tuple[str, str]]:
    """Fenced blocks: what stands behind the opening fence, and the content; only those of one kind if asked."""
    found = [(match[1].strip(), match[2]) for match in _FENCE.finditer(text)]
    return [block for block in found if block[0].startswith(info)]


def prose(text: str) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", text)


def links(text: str) -> Iterator[str]:
    """Where links and pictures lead, those inside code left out."""
    for match in _LINK.finditer(re.sub(r"`[^`\n]*`", "", prose(text))):
        yield match[1] or match[2] or match[3]


def headings(text: str) -> list[str]:
    """The headings' texts, in order."""
    return [line.lstrip("#").strip() for line in prose(text).splitlines() if re.match(r"#+ ", line)]


def anchor(heading: str) -> str:
    """The name that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def tables(text: str) -> Iterator[list[list[str]]]:
    """The cells of each table, its header first; escaped bars are kept."""
    block: list[str] = []
    for line in [*prose(text).splitlines(), ""]:
        if line.startswith("|"):
            block.append(line)
        elif block:
            yield [_cells(row) for number, row in enumerate(block) if number != 1]
            block = []


def _cells(row: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
