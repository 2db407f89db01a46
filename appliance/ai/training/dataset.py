"""A data set on disk: ``train.jsonl``, ``held.jsonl`` (never trained on) and ``report.json`` in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec import Struct

from appliance.ai.training.rows import Cleaner, Row, is_held
from appliance.contracts import ConfigError


class Report(Struct, frozen=True):
    """What became of the rows: how many came, are trained on, are held out, and were dropped by reason."""

    read: int
    train: int
    held: int
    dropped: dict[str, int]
    sources: dict[str, int]


def make(rows: Iterable[Row], target: Path, share: float = 0.1) -> Report:
    """Write a data set into the new folder ``target``, with ``share`` of its questions held out.

    The folder gets its name once it is whole. Raises ``ConfigError`` if it is there already or nothing is left.
    """
    if target.exists():
        raise ConfigError(f"{target} is there already; choose another name or remove it")
    unfinished = target.with_name(f"{target.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    cleaner, sources = Cleaner(), Counter[str]()
    read = 0

    def counted() -> Iterable[Row]:
        nonlocal read
        for row in rows:
            read += 1
            yield row

    kept: tuple[list[Row], list[Row]] = ([], [])
    for row in cleaner.clean(counted()):
        kept[is_held(row, share)].append(row)
        sources[row["source"].partition("#")[0].rpartition(":")[0] or row["source"]] += 1
    train, held = _balanced(*kept)
    if not train:
        shutil.rmtree(unfinished)
        raise ConfigError(f"no row is left to train on, of {read}: {dict(cleaner.dropped)}")
    report = Report(read, len(train), len(held), dict(cleaner.dropped), dict(sources))
    for name, side in (("train", train), ("held", held)):
        with (unfinished / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in side)
            file.flush()
            os.fsync(file.fileno())
    text = json.dumps({name: getattr(report, name) for name in report.__struct_fields__}, ensure_ascii=False, indent=2)
    (unfinished / "report.json").write_text(text + "\n", encoding="utf-8")
    unfinished.rename(target)
    return report


def _balanced(train: list[Row], held: list[Row]) -> tuple[list[Row], list[Row]]:
    """A small set may have all its rows on one side: then one of them goes to the other."""
    if not held and len(train) > 1:
        return train[:-1], train[-1:]
    if not train and held:
        return held[:1], held[1:]
    return train, held


def load(folder: Path, side: str) -> list[dict[str, Any]]:
    """The rows of a side (``train`` or ``held``). Raises ``ConfigError``."""
    try:
        lines = (folder / f"{side}.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]
    except FileNotFoundError:
        raise ConfigError(
            f"there is no data set {folder.name!r} in {folder.parent}; `flowork train dataset` makes one"
        ) from None
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{folder} is no data set: {exc}") from None
