"""What this machine can run: which models fit its memory, in which quantization, and how fast they will be.

A speed is what was measured here (``flowork models bench``). Else it is an estimate, and called so: to make a token
every weight is read once, so memory's bandwidth, measured at that moment, bounds it. If another model was measured
here, its share of that bound is taken for this one too.
"""

from __future__ import annotations

import ctypes
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from appliance.ai.building import machine, place
from appliance.ai.host import files, memory
from appliance.ai.library import cards
from appliance.ai.library.cards import ModelView
from appliance.ai.library.catalogue import CatalogueEntry, Variant, catalogue

#: Tokens of context that are reckoned with: what the host gives a model.
CONTEXT = 4096
#: Bytes beside weights and context, as the host reckons.
_BESIDE = 128 << 20
#: Of the bound by memory's bandwidth, what llama.cpp reaches where nothing was measured: on boards whose memory is slow
#: nearly all of it, less where the memory is fast and the cores few.
_SHARE = 0.6
#: Tokens a second that a person reads along with.
USABLE = 5.0
_COPY = 32 << 20


class Machine(Struct, frozen=True, kw_only=True):
    """This machine. ``bound`` is the memory that models may use, ``bandwidth`` bytes a second read from memory."""

    cpu: str
    cores: int
    features: tuple[str, ...]
    memory: int
    bound: int
    bandwidth: float
    engine: str


class Advice(Struct, frozen=True, kw_only=True):
    """One model in one quantization. ``parameters`` is the number of its weights (0: not known), ``needs`` bytes of
    memory; ``speed`` in tokens a second, ``measured`` or not. ``best``: the one to begin with.
    """

    name: str
    title: str
    kind: str
    quantization: str
    parameters: int
    bytes: int
    needs: int
    fits: bool
    speed: float
    measured: bool
    here: bool
    licence: str
    best: bool = False
    why: str = ""


def look(data: Path, bound: int = 0, bandwidth: Callable[[], float] | None = None) -> Machine:
    """Measure the machine (a second). ``bound`` is what a setting gives models, in bytes; 0: the host's default."""
    facts = place.engine_facts(data)
    return Machine(
        cpu=machine.cpu_name(),
        cores=machine.cores(),
        features=machine.cpu_features(),
        memory=machine.total_memory(),
        bound=bound or memory.default_bound(),
        bandwidth=(bandwidth or read_bandwidth)(),
        engine="" if facts is None else f"{facts.kind} {facts.version}{' (portable)' if facts.portable else ''}",
    )


def recommend(data: Path, found: Machine) -> list[Advice]:
    """Everything in the catalogue and here, the best for this machine first. Raises ``ConfigError`` for a wrong
    catalogue of the owner's.
    """
    here = cards.all_models(data)
    share = _share(here, found)
    names = {view.name for view in here}
    whole = [view for view in here if files.WITH not in view.name]  # with an adapter it is as large and as fast
    rows = [_local(view, found, share) for view in whole if view.kind in ("language", "embedding")]
    for entry in catalogue(data).values():
        for variant in entry.variants:
            name = entry.name if variant.parts else f"{entry.name}-{variant.quantization.lower()}"
            if name not in names:
                rows.append(_offered(entry, variant, found, share))
    rows.sort(key=_rank, reverse=True)
    return _mark_best(rows)


def _share(here: Iterable[ModelView], found: Machine) -> float:
    """Of the bound by bandwidth, what was reached by models that were measured on this machine."""
    reached = [
        view.speed.generation * view.bytes / found.bandwidth
        for view in here
        if view.speed is not None and view.speed.machine == found.cpu and found.bandwidth and view.bytes > 50_000_000
    ]
    return min(1.5, statistics.median(reached)) if reached else _SHARE


def _local(view: ModelView, found: Machine, share: float) -> Advice:
    measured = view.speed is not None and view.speed.machine == found.cpu
    return _advice(
        name=view.name,
        title=view.title,
        kind=view.kind,
        quantization=view.quantization,
        parameters=view.parameters,
        size=view.bytes,
        cell=view.cell,
        context=view.context,
        licence=view.licence,
        found=found,
        speed=view.speed.generation if measured and view.speed is not None else _estimate(view.bytes, found, share),
        measured=measured,
        here=True,
    )


def _offered(entry: CatalogueEntry, variant: Variant, found: Machine, share: float) -> Advice:
    return _advice(
        name=entry.name if variant.parts else f"{entry.name}:{variant.quantization}",
        title=entry.title,
        kind=entry.kind,
        quantization=variant.quantization,
        parameters=entry.parameters,
        size=variant.bytes,
        cell=entry.cell,
        context=entry.context,
        licence=entry.licence,
        found=found,
        speed=_estimate(variant.bytes, found, share) if entry.kind == "language" else 0.0,
        measured=False,
        here=False,
    )


def _advice(
    *, name: str, title: str, kind: str, quantization: str, parameters: int, size: int, cell: int, context: int,
    licence: str, found: Machine, speed: float, measured: bool, here: bool,
) -> Advice:  # fmt: skip
    needs = size + cell * min(context or CONTEXT, CONTEXT) + _BESIDE
    fits = needs <= found.bound
    speed = round(speed, 1) if kind == "language" else 0.0
    why = "" if fits else "too large for the memory that models may use"
    if fits and kind == "language" and speed < USABLE:
        why = "slow: for work that nobody waits for"
    return Advice(
        name=name, title=title, kind=kind, quantization=quantization, parameters=parameters, bytes=size,
        needs=needs, fits=fits, speed=speed, measured=measured, here=here, licence=licence, why=why,
    )  # fmt: skip


def _estimate(size: int, found: Machine, share: float) -> float:
    return found.bandwidth * share / size


def _rank(row: Advice) -> tuple[bool, bool, bool, int, int]:
    """What fits first, then language models that are fast enough, then those that know more: more weights do, and of
    the same weights the finer ones. What is too slow is ranked by speed.
    """
    usable = row.kind != "language" or row.speed >= USABLE
    best = (row.parameters, row.bytes) if usable else (-row.bytes, 0)
    return row.fits, row.kind == "language", usable, *best


def _mark_best(rows: list[Advice]) -> list[Advice]:
    chosen = next((row for row in rows if row.fits and row.kind == "language"), None)
    return [replace(row, best=True) if row is chosen else row for row in rows]


def read_bandwidth(seconds: float = 0.4, clock: Callable[[], float] = time.perf_counter) -> float:
    """Bytes a second that all cores together get from memory: measured by copying, which reads and writes.

    The copy's own figure is doubled, as STREAM reckons (a byte read, a byte written). The best of some rounds counts:
    what else runs only takes away.
    """
    size, threads = _COPY, machine.cores()
    pairs = [(ctypes.create_string_buffer(size), ctypes.create_string_buffer(size)) for _ in range(threads)]

    def copy(pair: tuple[ctypes.Array[ctypes.c_char], ctypes.Array[ctypes.c_char]]) -> None:
        ctypes.memmove(pair[0], pair[1], size)  # lets other threads run meanwhile

    best, end = 0.0, clock() + seconds
    while not best or clock() < end:
        workers = [threading.Thread(target=copy, args=(pair,)) for pair in pairs]
        began = clock()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, 2.0 * size * threads / max(1e-9, clock() - began))
    return best
