"""The engine's settings: each one once, with its default, bounds and help.

A field's value comes from, in this order: the environment (``FLOWORK_<NAME>``), the database, the default
below. Adding a setting is adding a field; form, documentation and JSON Schema follow from it.
"""

from __future__ import annotations

import logging
import zoneinfo
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from appliance.contracts import ConfigError
from appliance.store.database import Database
from appliance.store.errors import NotFound
from appliance.store.tables import SETTING

logger = logging.getLogger(__name__)

_PREFIX = "FLOWORK_"
_SETTINGS = "settings"


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an owner can set for the whole engine."""

    keep_days: Annotated[float, Meta(ge=0, le=3650, description="Days for which runs that succeeded are kept")] = 30.0
    keep_failed_days: Annotated[
        float, Meta(ge=0, le=3650, description="Days for which runs that did not succeed are kept")
    ] = 90.0
    max_history_bytes: Annotated[
        int,
        Meta(ge=10_000_000, description="Bytes the history may take on disk; beyond, the oldest runs go first"),
    ] = 2_000_000_000
    max_snapshot_bytes: Annotated[
        int,
        Meta(ge=1024, le=100_000_000, description="Bytes of one value kept with a step; longer ones are cut"),
    ] = 262_144
    queue_bound: Annotated[
        int, Meta(ge=1, le=10_000_000, description="Runs that may wait or go on; beyond, events are refused")
    ] = 10_000
    durability: Annotated[
        Literal["power", "process"],
        Meta(
            description="`power`: what is acknowledged survives a power cut. `process`: only kill -9; faster, "
            "and the last moments may be lost at a power cut"
        ),
    ] = "power"
    rate_limit: Annotated[
        float, Meta(gt=0, le=100_000, description="API requests a second that one caller may make")
    ] = 50.0
    rate_burst: Annotated[
        int, Meta(ge=1, le=1_000_000, description="API requests one caller may make at once after a pause")
    ] = 200
    sign_ins_per_minute: Annotated[
        int, Meta(ge=1, le=10_000, description="Attempts to sign in that one address may make in a minute")
    ] = 10
    max_request_bytes: Annotated[int, Meta(ge=1024, le=1_000_000_000, description="Bytes an HTTP request may have")] = (
        5_000_000
    )
    session_hours: Annotated[
        float, Meta(gt=0, le=8760, description="Hours after which the panel asks to sign in again")
    ] = 168.0
    allowed_origins: Annotated[
        tuple[str, ...], Meta(description="Web pages (https://host) that may call the API from a browser")
    ] = ()
    file_roots: Annotated[
        tuple[str, ...],
        Meta(description="Folders that flows may read and write; the data folder's files/ is always one"),
    ] = ()
    clock: Annotated[
        Literal["wait", "trust"],
        Meta(
            description="`wait`: schedules start once the system clock is known to be right. `trust`: at once, "
            "for a machine with a battery-backed clock and no network time"
        ),
    ] = "wait"
    timezone: Annotated[str, Meta(description="Time zone of schedules, as Europe/Berlin; empty: the machine's own")] = (
        ""
    )

    def __post_init__(self) -> None:
        if self.timezone and not _is_zone(self.timezone):
            raise ValueError(f"{self.timezone!r} is no time zone; write one as Europe/Berlin")
        for origin in self.allowed_origins:
            if not origin.startswith(("http://", "https://")):
                raise ValueError(f"{origin!r} is no origin; write it as https://host or http://host:port")


NAMES = Settings.__struct_fields__
_DEFAULTS = Settings()


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


def schema() -> dict[str, Any]:
    """The JSON Schema of the settings: types, bounds, defaults and help."""
    found = msgspec.json.schema(Settings)["$defs"]["Settings"]
    return dict(found)


def _known(name: str) -> None:
    if name not in NAMES:
        raise NotFound(f"there is no setting {name!r}; there are: {', '.join(NAMES)}")


def _setting(name: str, sources: Sequence[tuple[str, Mapping[str, Any]]]) -> Setting:
    default = getattr(_DEFAULTS, name)
    for source, values in sources:
        if name in values:
            return Setting(name, values[name], default, source)
    return Setting(name, default, default, "default")


def _is_zone(name: str) -> bool:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def from_text(name: str, text: str) -> Any:
    """What a person has written for a setting (a list with commas), for :func:`check` with ``strict=False``."""
    _known(name)
    if isinstance(getattr(_DEFAULTS, name), tuple):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text
