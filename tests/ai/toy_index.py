"""A folder for ``pip --no-index --find-links`` with toys in the place of what an engine is made of.

The toy of llama.cpp is a source package with a build system of its own (``toy_backend.txt``), which says what Ninja
would say. It notes how it was called, and does what ``$TOY_BUILD`` says: ``fail``, or ``memory`` (as if the compiler
had been killed, unless it is told to do one file at a time).
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

from appliance.ai.building import recipe

#: What the libraries are imported as.
_MODULES = {"pillow": "PIL", "genai-prices": "genai_prices", "scikit-build-core": "scikit_build_core"}
_TAGS = "Wheel-Version: 1.0\nGenerator: toy\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def make(folder: Path) -> Path:
    """Fill the folder; it."""
    folder.mkdir()
    _source(folder)
    pinned = dict(line.split("==") for line in recipe.pins())
    wanted = [recipe.BUILD_SYSTEM, *recipe.BUILD_PROGRAMS, *recipe.requirements()]
    for requirement in wanted:
        name = requirement.partition(">")[0]
        wheel(folder, name, pinned.get(name, "9999.0"))
    return folder


def _source(folder: Path) -> None:
    top = f"llama_cpp_python-{recipe.VERSION}"
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    backend = Path(__file__).with_name("toy_backend.txt").read_text()
    with tarfile.open(folder / f"{top}.tar.gz", "w:gz") as tar:
        for name, text in (
            ("pyproject.toml", project + f'[project]\nname = "llama-cpp-python"\nversion = "{recipe.VERSION}"\n'),
            ("PKG-INFO", f"Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: {recipe.VERSION}\n"),
            ("backend.py", backend.replace("VERSION", recipe.VERSION)),
        ):
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))


def wheel(folder: Path, name: str, version: str, text: str = "") -> None:
    """A wheel of one module that holds ``text``."""
    plain = name.replace("-", "_")
    info = f"{plain}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{plain}-{version}-py3-none-any.whl", "w") as made:
        made.writestr(f"{_MODULES.get(name, plain)}/__init__.py", text)
        made.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        made.writestr(f"{info}/WHEEL", _TAGS)
        made.writestr(f"{info}/RECORD", "")
