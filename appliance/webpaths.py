"""The secret paths of web triggers: every one has a path, and no two live flows have the same."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from appliance.contracts import ConfigError, Problem, Trigger, WebTrigger, decode
from appliance.engine.configs import fields_of

#: Random bytes of a path that Flowork chooses (192 bits: the path is the secret).
_BYTES = 24


class Clash(Struct, frozen=True):
    """Trigger number ``index`` has a path that ``owner`` (a flow, or an earlier trigger) has already."""

    index: int
    owner: str

    @property
    def problem(self) -> Problem:
        """What is shown to the person who saves."""
        place = f"triggers[{self.index}].config.path"
        return Problem(place, f"belongs to {self.owner} already; choose another, or leave it out")


class WebPaths:
    """Looks at flows as they are saved. ``kinds`` are the installed trigger kinds."""

    def __init__(self, kinds: Mapping[str, Trigger[Any]]) -> None:
        self._kinds = kinds

    def filled(self, body: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
        """The flow with a path for every web trigger: its own, else the one it has in ``before``, else random."""
        result = copy.deepcopy(dict(body))
        known = {str(old.get("id")): _path_in(old) for old in self._with_path_field(before or {})}
        for trigger in self._with_path_field(result):
            config = trigger.setdefault("config", {})
            if isinstance(config, dict) and not config.get("path"):
                config["path"] = known.get(str(trigger.get("id"))) or secrets.token_urlsafe(_BYTES)
        return result

    def renewed(self, body: Mapping[str, Any], indexes: Iterable[int]) -> dict[str, Any]:
        """The flow with new random paths for these triggers."""
        result = copy.deepcopy(dict(body))
        for index in indexes:
            result["triggers"][index]["config"]["path"] = secrets.token_urlsafe(_BYTES)
        return result

    def clashes(self, body: Mapping[str, Any], others: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[Clash]:
        """The triggers whose path is one of ``others`` (flow ids and bodies; not looked at if there is no need)."""
        mine = list(self._paths(body))
        taken: dict[str, str] = {}
        for flow_id, other in others if mine else ():
            taken |= {path: f"flow {flow_id!r}" for _, path in self._paths(other)}
        for index, path in mine:
            if path in taken:
                yield Clash(index, taken[path])
            taken.setdefault(path, f"triggers[{index}]")

    def paths(self, body: Mapping[str, Any]) -> dict[str, str]:
        """Trigger id → path, as far as it can be known."""
        return {str(body["triggers"][index]["id"]): path for index, path in self._paths(body)}

    def _with_path_field(self, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        for _, trigger, kind in self._web(body):
            if "path" in fields_of(kind.Config):
                yield trigger

    def _paths(self, body: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
        """Index and path; a path with templates in it is not known before the trigger is attached."""
        for index, trigger, kind in self._web(body):
            try:
                path = kind.path(decode(kind.Config, trigger.get("config", {})))
            except ConfigError:
                continue  # empty, or said by the check of the config itself
            if not trigger.get("disabled") and "{" not in path:
                yield index, path

    def _web(self, body: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any], WebTrigger[Any]]]:
        triggers = body.get("triggers")
        for index, trigger in enumerate(triggers if isinstance(triggers, list) else []):
            kind = self._kinds.get(str(trigger.get("type"))) if isinstance(trigger, dict) else None
            if isinstance(kind, WebTrigger):
                yield index, trigger, kind


def _path_in(trigger: Mapping[str, Any]) -> str:
    """The path in a trigger's config, which in a draft may be anything."""
    config = trigger.get("config")
    path = config.get("path") if isinstance(config, dict) else None
    return path if isinstance(path, str) else ""
