"""How the two kinds of models come into memory. The libraries are imported here, when the first model of a kind is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from appliance.ai.building.place import making, use_engine
from appliance.ai.host.errors import ModelUnusable, NoEngine
from appliance.ai.host.files import FOLDER, ONNX, Found, Kind
from appliance.ai.host.shelf import Loader, Model
from appliance.contracts import ConfigError

T = TypeVar("T")

_PIECE = 8 << 20
#: Tokens of context, prompt and answer together: the most with which a model takes no more than a share of the bound.
_CONTEXTS, _SHARE = (8192, 4096, 2048), 0.8
#: Beside the weights: what is prepared for the processor, and what is between two layers.
_BUFFERS = 128 << 20


class LanguageLoader:
    """GGUF files, by llama.cpp. What prompts were evaluated to is kept in ``<data>/models/state``."""

    def __init__(self, data: Path, bound: int) -> None:
        self._data = data
        self._bound = bound
        self._state = data / FOLDER / "state"

    def need(self, found: Found) -> int:
        return self._fitting(found)[1]

    def _fitting(self, found: Found) -> tuple[int, int]:
        """Tokens of context that fit here, and the bytes that the model takes with them."""
        from appliance.ai.host.llama import ggufs, projector_need

        facts = _usable(found, lambda: ggufs.read(found.path))
        seeing = _usable(found, lambda: projector_need(found.projector))
        context = need = 0
        for most in _CONTEXTS:
            context = min(facts.context or most, most)
            # Twice: what is under way, and what was evaluated and is kept.
            need = facts.size + 2 * facts.cell * context + _BUFFERS + seeing
            if need <= self._bound * _SHARE:
                break
        return context, need

    def load(self, found: Found, progress: Callable[[float], None]) -> Model:
        use_engine(self._data)  # it may have been made since the last time
        engine = self._engine(found)
        beside = [found.projector] if found.projector else []
        _usable(found, lambda: _read_through([found.path, *found.rest, *beside], progress))
        context, need = self._fitting(found)
        return _usable(found, lambda: engine(found, context, need))

    def _engine(self, found: Found) -> Callable[[Found, int, int], Model]:
        """The engine that was made for this machine; else the ready-made one, which can less. Raises ``NoEngine``."""
        try:
            import llama_cpp
        except (ImportError, OSError, RuntimeError) as exc:  # RuntimeError: its library is for another machine
            reason = exc
        else:
            assert llama_cpp
            return self._by_llama
        try:
            from appliance.ai.host import xllama
        except ImportError:
            raise _no_engine(found, f"what runs language models is not installed ({reason})") from None
        return lambda found, context, need: xllama.load(found.path, found.name, context)

    def _by_llama(self, found: Found, context: int, need: int) -> Model:
        from appliance.ai.host.llama import Options, load

        options = Options(
            name=found.name,
            context=context,
            memory=need,
            state=self._state,
            adapters=found.adapters,
            projector=found.projector,
        )
        return load(found.path, options)


class OnnxLoader:
    """Folders with an ONNX graph, by onnxruntime."""

    def __init__(self, data: Path) -> None:
        self._data = data

    def need(self, found: Found) -> int:
        return int(found.size * 1.5) + _BUFFERS // 4

    def load(self, found: Found, progress: Callable[[float], None]) -> Model:
        use_engine(self._data)
        from appliance.ai.host.onnx import load

        _usable(found, lambda: _read_through([found.path / ONNX], progress))
        return _usable(found, lambda: load(found.path, found.name))


def loaders(data: Path, bound: int) -> dict[Kind, Loader]:
    """The loader of each kind; models may use ``bound`` bytes together."""
    return {"language": LanguageLoader(data, bound), "onnx": OnnxLoader(data)}


def _usable(found: Found, act: Callable[[], T]) -> T:
    try:
        return act()
    except ConfigError as exc:
        raise ModelUnusable(exc.message) from None
    except ImportError as exc:
        raise _no_engine(found, f"what runs this model is not installed ({exc.name} is missing)") from None
    except OSError as exc:
        raise ModelUnusable(f"{found.path.name} cannot be read: {exc.strerror}") from None


def _no_engine(found: Found, lacks: str) -> NoEngine:
    """The error of a model that nothing here can run: for good, or until the engine is made."""
    if state := making(found.path.parent.parent):
        return NoEngine(f"the model engine is not ready: {state}. See `flowork models status`", retryable=True)
    return NoEngine(f"{lacks}: `flowork models setup` installs it")


def _read_through(paths: Sequence[Path], progress: Callable[[float], None]) -> None:
    """Have the files in memory before the library asks for it page by page: from a card that takes twice as long, and
    nobody could say how far it is. ``progress`` may raise, to end it.
    """
    size, done, room = sum(path.stat().st_size for path in paths), 0, bytearray(_PIECE)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(room):
                done += count
                progress(done / size)
