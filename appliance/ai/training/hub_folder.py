"""A model as a folder of safetensors, the way model hubs lay it out: config, tokenizer and weights.

The names of settings and tensors are those of Hugging Face's transformers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from appliance.contracts import ConfigError

Array = npt.NDArray[Any]


class HubFolder:
    """One such folder, open for reading. Raises ``ConfigError`` for one that is not whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = self.json("config.json")
        self._stack = ExitStack()
        self._where: dict[str, Any] = {}

    def __enter__(self) -> HubFolder:
        for file in self._weights():
            try:
                opened = self._stack.enter_context(safe_open(file, framework="numpy"))
            except (OSError, SafetensorError) as exc:
                raise ConfigError(f"{file.name} cannot be read: {exc}") from None
            self._where |= dict.fromkeys(opened.keys(), opened)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def _weights(self) -> list[Path]:
        index = self.path / "model.safetensors.index.json"
        if index.exists():
            names = sorted(set(self.json(index.name)["weight_map"].values()))
            files = [self.path / name for name in names]
        else:
            files = [self.path / "model.safetensors"]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise ConfigError(f"{self.path} has no {', '.join(missing)}")
        return files

    def json(self, name: str, *, needed: bool = True) -> dict[str, Any]:
        """A JSON file of the folder; one that need not be there is empty then."""
        try:
            found = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            if not needed:
                return {}
            raise ConfigError(f"{self.path} has no {name}; is it a model's folder?") from None
        except (OSError, ValueError) as exc:
            raise ConfigError(f"{self.path / name} cannot be read: {exc}") from None
        if not isinstance(found, dict):
            raise ConfigError(f"{self.path / name} is no JSON object")
        return found

    def text(self, name: str) -> str:
        """A text file of the folder; nothing if it is not there."""
        path = self.path / name
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def names(self) -> Iterator[str]:
        """The tensors that there are."""
        return iter(self._where)

    def tensor(self, name: str) -> Array:
        """A tensor as float32. numpy has no bfloat16: its bits are the upper half of a float32's."""
        opened = self._where[name]
        try:
            found: Array = opened.get_tensor(name)
        except (TypeError, AttributeError, SafetensorError):
            found = _bfloat16(opened, name)
        return found.astype(np.float32)


def _bfloat16(opened: Any, name: str) -> Array:
    import torch  # numpy cannot hold it; safetensors gives it to torch alone

    with safe_open(opened.filename, framework="pt") as same:
        tensor: torch.Tensor = same.get_tensor(name)
    found: Array = tensor.to(torch.float32).numpy()
    return found
