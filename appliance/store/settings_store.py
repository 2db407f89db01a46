"""Where a setting's value comes from: the environment (``FLOWORK_<NAME>``), then the database, then the default."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from appliance.contracts import ConfigError
from appliance.store.database import Database
from appliance.store.errors import NotFound
from appliance.store.settings import DEFAULTS, NAMES, Settings
from appliance.store.tables import SETTING

logger = logging.getLogger(__name__)

_PREFIX = "FLOWORK_"
_SETTINGS = "settings"


class Setting(Struct, frozen=True):
    """One setting as it is now; ``source`` is ``environment``, ``database`` or ``default``."""

    name: str
    value: Any
    default: Any
    source: str


class SettingsStore:
    """``store.settings``. Raises ``ConfigError`` for a value out of bounds, ``NotFound`` for a wrong name."""

    def __init__(self, db: Database, environ: Mapping[str, str]) -> None:
        self._db = db
        self._environ = environ

    def load(self) -> Settings:
        """The settings that hold now. Raises ``ConfigError`` for an environment variable that is wrong."""
        return Settings(**{setting.name: setting.value for setting in self.describe()})

    def describe(self) -> list[Setting]:
        """Every setting with where its value comes from."""
        sources = (("environment", self._from_environment()), ("database", self._stored()))
        return [_setting(name, sources) for name in NAMES]

    def set(self, values: Mapping[str, Any]) -> Settings:
        """Keep new values, all or none; the settings that hold then."""
        checked = {name: check(name, value) for name, value in values.items()}
        with self._db.write():
            for name, value in checked.items():
                row = {"name": name, "value": msgspec.json.encode(value).decode()}
                self._db.run(SETTING.insert(row).on_conflict(conflict_target=["name"], preserve=["value"]))
            self._db.bump(_SETTINGS)
        return self.load()

    def reset(self, name: str) -> Settings:
        """Go back to a setting's default."""
        _known(name)
        with self._db.write():
            self._db.run(SETTING.delete().where(SETTING.name == name))
            self._db.bump(_SETTINGS)
        return self.load()

    def change_counter(self) -> int:
        """Grows with every change of a setting, whichever process made it."""
        return self._db.counters().get(_SETTINGS, 0)

    def _stored(self) -> dict[str, Any]:
        values = {}
        for row in self._db.all(SETTING.select()):
            try:
                values[row["name"]] = check(row["name"], msgspec.json.decode(row["value"]))
            except (ConfigError, NotFound, msgspec.DecodeError) as exc:
                # A bound may have become tighter with an update: the box must start all the same.
                logger.warning("the stored setting %s is not used: %s", row["name"], exc)
        return values

    def _from_environment(self) -> dict[str, Any]:
        values = {}
        for name in NAMES:
            variable = _PREFIX + name.upper()
            if text := self._environ.get(variable, "").strip():
                try:
                    values[name] = check(name, from_text(name, text), strict=False)
                except ConfigError as exc:
                    raise ConfigError(f"environment variable {variable}: {exc.message}") from None
        return values


def check(name: str, value: Any, *, strict: bool = True) -> Any:
    """The value of a setting, converted. Raises ``ConfigError``, ``NotFound``."""
    _known(name)
    try:
        return getattr(msgspec.convert({name: value}, Settings, strict=strict), name)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{name}: {str(exc).split(' - at `')[0]}") from None


def _known(name: str) -> None:
    if name not in NAMES:
        raise NotFound(f"there is no setting {name!r}; there are: {', '.join(NAMES)}")


def _setting(name: str, sources: Sequence[tuple[str, Mapping[str, Any]]]) -> Setting:
    default = getattr(DEFAULTS, name)
    for source, values in sources:
        if name in values:
            return Setting(name, values[name], default, source)
    return Setting(name, default, default, "default")


def from_text(name: str, text: str) -> Any:
    """What a person has written for a setting (a list with commas), for :func:`check` with ``strict=False``."""
    _known(name)
    if isinstance(getattr(DEFAULTS, name), dict):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as exc:
            raise ConfigError(f"{name}: must be JSON: {exc}") from None
    if isinstance(getattr(DEFAULTS, name), tuple):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text
