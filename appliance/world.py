"""What the check of a flow may ask about this machine: interpreters, programs, modules, other flows."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from appliance.ai.gateway.names import KnownModels
from appliance.contracts import ConfigError
from appliance.fleet import check
from appliance.sandbox.confine import bubblewrap
from appliance.sandbox.languages import PATH, usable


class Machine:
    """Implements :class:`appliance.contracts.World` for the machine that this process runs on.

    ``flow_exists`` knows the flows of the workspace that is being saved to; ``data`` is the engine's folder, without
    which nobody knows its agents; ``models`` knows where the engine's models are.
    """

    def __init__(
        self, flow_exists: Callable[[str], bool], data: Path | None = None, models: KnownModels | None = None
    ) -> None:
        self._flow_exists = flow_exists
        self._data = data
        self._models = models or KnownModels(None, {})
        self._languages: Mapping[str, str] | None = None

    def languages(self) -> Mapping[str, str]:
        """Looked for once, when the first script asks."""
        if self._languages is None:
            self._languages = usable()
        return self._languages

    def has_program(self, name: str) -> bool:
        return shutil.which(name, path=PATH) is not None

    def has_module(self, name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is not None
        except (ImportError, ValueError):  # a parent package that is missing, or a module without a spec
            return False

    def confined(self) -> bool:
        return not bubblewrap().why_not

    def flow_exists(self, flow: str) -> bool:
        return self._flow_exists(flow)

    def model_fault(self, name: str) -> str:
        return self._models.fault(name)

    def model_places(self, names: Sequence[str], kind: str) -> Sequence[str]:
        return self._models.places(names, kind)

    def schema_fault(self, schema: Any, names: Sequence[str]) -> str:
        if not self._models.may_be_own(names, "language"):
            return ""
        from appliance.ai.grammar.schema import grammar_of

        try:
            grammar_of(schema)
        except ConfigError as exc:
            return exc.message
        return ""

    def device_fault(self, agent: str, driver: str, config: Mapping[str, Any]) -> str:
        return check.fault(self._data, agent, driver, config)
