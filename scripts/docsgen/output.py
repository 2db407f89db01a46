"""The generated pages on disk: which differ from what the code says, and writing them."""

from __future__ import annotations

from scripts.docsgen.pages import ROOT, pages

#: Folders in which every page is generated.
_FOLDERS = ("docs/nodes", "docs/triggers")


def differences() -> list[str]:
    """Pages that are missing, differ, or belong to a plug-in that is gone, by their path in the repository."""
    made = pages()
    return sorted([path for path, text in made.items() if _text(path) != text] + _left(set(made)))


def write() -> None:
    """Write all pages and delete those of plug-ins that are gone."""
    made = pages()
    for path in _left(set(made)):
        (ROOT / path).unlink()
    for path, text in made.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text)


def _text(path: str) -> str | None:
    file = ROOT / path
    return file.read_text() if file.exists() else None


def _left(made: set[str]) -> list[str]:
    found = [f"{folder}/{page.name}" for folder in _FOLDERS for page in (ROOT / folder).glob("*.md")]
    return [path for path in found if path not in made]
