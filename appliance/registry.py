"""Finds nodes, triggers and providers of models by scanning folders; a broken one is kept, disabled, with its error.

A plug-in is a module with one subclass of ``Node``, ``Trigger`` or ``Provider``; its type is the module's name.
Built-in ones lie in ``appliance/nodes``, ``appliance/triggers`` and ``appliance/ai/providers``, a person's own in
``nodes``, ``triggers`` and ``providers`` of the data folder's ``packages``.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import msgspec

from appliance.contracts import Node, Provider, Trigger, WebTrigger

logger = logging.getLogger(__name__)

P = TypeVar("P", bound=Node[Any] | Trigger[Any] | Provider[Any])
_HERE = Path(__file__).parent


class Broken(msgspec.Struct, frozen=True):
    """A plug-in that could not be loaded, and why."""

    kind: str
    type: str
    file: str
    error: str


class Registry:
    """The installed kinds of nodes, triggers and providers."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node[Any]] = {}
        self._triggers: dict[str, Trigger[Any]] = {}
        self._providers: dict[str, Provider[Any]] = {}
        self.broken: list[Broken] = []

    @property
    def nodes(self) -> Mapping[str, Node[Any]]:
        return self._nodes

    @property
    def triggers(self) -> Mapping[str, Trigger[Any]]:
        return self._triggers

    @property
    def providers(self) -> Mapping[str, Provider[Any]]:
        return self._providers

    def scan(self, packages: Path | None = None) -> Registry:
        """Load all plug-ins; ``packages`` is the data folder's place for a person's own."""
        self._scan(_HERE / "nodes", "node", Node, self._nodes, "appliance.nodes")
        self._scan(_HERE / "triggers", "trigger", Trigger, self._triggers, "appliance.triggers")
        self._scan(_HERE / "ai" / "providers", "provider", Provider, self._providers, "appliance.ai.providers")
        if packages is not None:
            self._scan(packages / "nodes", "node", Node, self._nodes, None)
            self._scan(packages / "triggers", "trigger", Trigger, self._triggers, None)
            self._scan(packages / "providers", "provider", Provider, self._providers, None)
        return self

    def _scan(self, folder: Path, kind: str, base: type[P], into: dict[str, P], package: str | None) -> None:
        for file in sorted(folder.glob("*.py")) if folder.is_dir() else []:
            if file.stem.startswith("_"):
                continue
            try:
                plugin = _load(file, base, package)
                if file.stem in into:
                    raise ValueError(f"there is a {kind} {file.stem!r} already; name the file otherwise")
                into[file.stem] = plugin
            except Exception as exc:
                message = traceback.format_exception_only(exc)[-1].strip()
                self.broken.append(Broken(kind, file.stem, str(file), message))
                logger.warning("%s %r is disabled: %s", kind, file.stem, message)

    def catalog(self) -> dict[str, Any]:
        """All kinds for the panel and the docs: title, help, ports, effect and the config's JSON Schema."""
        return {
            "nodes": [_node_entry(name, node) for name, node in sorted(self._nodes.items())],
            "triggers": [_trigger_entry(name, trigger) for name, trigger in sorted(self._triggers.items())],
            "broken": [msgspec.to_builtins(broken) for broken in self.broken],
        }


def _load(file: Path, base: type[P], package: str | None) -> P:
    module = importlib.import_module(f"{package}.{file.stem}") if package else _import_file(file)
    found = [
        thing
        for thing in vars(module).values()
        if inspect.isclass(thing) and issubclass(thing, base) and thing.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ValueError(f"{file.name} must define exactly one {base.__name__}, it defines {len(found)}")
    if not (module.__doc__ or "").strip():
        raise ValueError(f"{file.name} has no docstring; it is the plug-in's help text")
    plugin: P = found[0]()
    msgspec.json.schema(plugin.Config)
    return plugin


def _import_file(file: Path) -> ModuleType:
    name = f"flowork_package_{file.parent.name}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def help_of(plugin: Node[Any] | Trigger[Any]) -> tuple[str, str]:
    """A plug-in's one-sentence summary and the rest of its help, from its module's docstring."""
    # Not cleaned by inspect.cleandoc: that takes the indentation of an example for that of the docstring.
    text = (sys.modules[type(plugin).__module__].__doc__ or "").strip()
    summary, _, rest = text.partition("\n\n")
    return " ".join(summary.split()), rest.strip("\n")


def _entry(name: str, plugin: Node[Any] | Trigger[Any]) -> dict[str, Any]:
    summary, rest = help_of(plugin)
    return {
        "type": name,
        "title": plugin.title or name.replace("_", " ").capitalize(),
        "icon": plugin.icon,
        "summary": summary,
        "help": rest,
        "schema": msgspec.json.schema(plugin.Config),
    }


def _node_entry(name: str, node: Node[Any]) -> dict[str, Any]:
    return {
        **_entry(name, node),
        "category": node.category,
        "effect": str(node.effect),
        "ports": [*node.ports, "error"],
        "has_body": node.has_body,
        "model_fields": dict(node.model_fields),
    }


def _trigger_entry(name: str, trigger: Trigger[Any]) -> dict[str, Any]:
    return {**_entry(name, trigger), "web": isinstance(trigger, WebTrigger)}
