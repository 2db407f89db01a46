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


def _about(group: str, *, unit: str = "", restart: bool = False) -> dict[str, Any]:
    """What a form is to know besides: the group, the unit, and whether it holds from the next start on."""
    marks = {"x-flowork-group": group, "x-flowork-unit": unit, "x-flowork-restart": restart}
    return {name: value for name, value in marks.items() if value}


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an owner can set for the whole engine."""

    keep_days: Annotated[
        float,
        Meta(
            ge=0,
            le=3650,
            title="Keep runs that succeeded",
            description="Days for which runs that succeeded are kept",
            extra_json_schema=_about("History", unit="days"),
        ),
    ] = 30.0
    keep_failed_days: Annotated[
        float,
        Meta(
            ge=0,
            le=3650,
            title="Keep runs that did not succeed",
            description="Days for which runs that did not succeed are kept",
            extra_json_schema=_about("History", unit="days"),
        ),
    ] = 90.0
    max_history_bytes: Annotated[
        int,
        Meta(
            ge=10_000_000,
            title="Size of the history",
            description="Bytes the history may take on disk; beyond, the oldest runs go first",
            extra_json_schema=_about("History", unit="bytes"),
        ),
    ] = 2_000_000_000
    max_snapshot_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=100_000_000,
            title="Size of one value",
            description="Bytes of one value kept with a step; longer ones are cut",
            extra_json_schema=_about("History", unit="bytes", restart=True),
        ),
    ] = 262_144
    queue_bound: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            title="Runs at once",
            description="Runs that may wait or go on; beyond, events are refused",
            extra_json_schema=_about("Running", unit="runs", restart=True),
        ),
    ] = 10_000
    write_budget_mb: Annotated[
        float,
        Meta(
            ge=0,
            le=1_000_000,
            title="Writing to the disk",
            description="MB that may be written to the disk in a day. Beyond, runs without effects come into the "
            "history once a minute instead of at once. 0: no bound. By default it counts on SD cards and eMMC only; "
            "a value that you set counts on any disk",
            extra_json_schema=_about("History", unit="MB a day"),
        ),
    ] = 100.0
    integrity: Annotated[
        Literal["ignore", "report", "refuse"],
        Meta(
            title="Installed files",
            description="They are compared with the list that was signed when they were installed, at the start and "
            "once a day. report: a difference is told; refuse: the kernel rests in safe mode until it is mended",
            extra_json_schema=_about("Running", restart=True),
        ),
    ] = "report"
    durability: Annotated[
        Literal["power", "process"],
        Meta(
            title="What is acknowledged survives",
            description="`power`: what is acknowledged survives a power cut. `process`: only kill -9; faster, "
            "and the last moments may be lost at a power cut",
            extra_json_schema=_about("Running", restart=True),
        ),
    ] = "power"
    rate_limit: Annotated[
        float,
        Meta(
            gt=0,
            le=100_000,
            title="Requests of one caller",
            description="API requests a second that one caller may make",
            extra_json_schema=_about("Access", unit="a second"),
        ),
    ] = 50.0
    rate_burst: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            title="Requests of one caller at once",
            description="API requests one caller may make at once after a pause",
            extra_json_schema=_about("Access", unit="requests"),
        ),
    ] = 200
    sign_ins_per_minute: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            title="Attempts to sign in",
            description="Attempts to sign in that one address may make in a minute",
            extra_json_schema=_about("Access", unit="a minute"),
        ),
    ] = 10
    max_request_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=1_000_000_000,
            title="Size of a request",
            description="Bytes an HTTP request may have",
            extra_json_schema=_about("Access", unit="bytes"),
        ),
    ] = 5_000_000
    session_hours: Annotated[
        float,
        Meta(
            gt=0,
            le=8760,
            title="Stay signed in",
            description="Hours after which the panel asks to sign in again",
            extra_json_schema=_about("Access", unit="hours"),
        ),
    ] = 168.0
    allowed_origins: Annotated[
        tuple[str, ...],
        Meta(
            title="Panels elsewhere",
            description="Web pages (https://host) that may call the API from a browser",
            extra_json_schema=_about("Access"),
        ),
    ] = ()
    https: Annotated[
        Literal["off", "on", "only"],
        Meta(
            title="HTTPS",
            description="`on`: the port answers https too, with a certificate of this engine's own authority "
            "(`/certificate` installs it), and sends browsers there; programs may go on with http. `only`: nothing "
            "but that page is given over http, except to this machine itself",
            extra_json_schema=_about("Access"),
        ),
    ] = "off"
    tunnel_port: Annotated[
        int,
        Meta(
            ge=0,
            le=65535,
            title="Port for a tunnel",
            description="A port of this machine alone (127.0.0.1), to which a tunnel from the internet hands what "
            "it gets: there everything needs a sign-in or a token. 0: none",
            extra_json_schema=_about("Access", restart=True),
        ),
    ] = 0
    tunnel_hooks: Annotated[
        Literal["token", "open", "off"],
        Meta(
            title="Webhooks from a tunnel",
            description="`token`: they need an engine token with the scope `events:write` besides their secret "
            "address. `open`: the address is enough, for senders that know no tokens. `off`: none are taken",
            extra_json_schema=_about("Access"),
        ),
    ] = "token"
    file_roots: Annotated[
        tuple[str, ...],
        Meta(
            title="Folders for flows",
            description="Folders that flows may read and write; the data folder's files/ is always one",
            extra_json_schema=_about("Running"),
        ),
    ] = ()
    clock: Annotated[
        Literal["wait", "trust"],
        Meta(
            title="Trust the clock",
            description="`wait`: schedules start once the system clock is known to be right. `trust`: at once, "
            "for a machine with a battery-backed clock and no network time",
            extra_json_schema=_about("Time", restart=True),
        ),
    ] = "wait"
    timezone: Annotated[
        str,
        Meta(
            title="Time zone",
            description="Time zone of schedules, as Europe/Berlin; empty: the machine's own",
            extra_json_schema=_about("Time"),
        ),
    ] = ""

    model_default: Annotated[
        tuple[str, ...],
        Meta(
            title="Models by default",
            description="Tried in this order where a step names none: NAME is this machine's, UPSTREAM/NAME an "
            "upstream's; empty: the first model of this machine",
            extra_json_schema=_about("Models"),
        ),
    ] = ()
    model_embed: Annotated[
        str,
        Meta(
            title="Model for embeddings",
            description="Taken where a step names none; empty: the first model of this machine that makes vectors",
            extra_json_schema=_about("Models"),
        ),
    ] = ""
    model_upstreams: Annotated[
        dict[str, dict[str, Any]],
        Meta(
            title="Upstreams",
            description="Other places with models, by name: "
            '`{"NAME": {"provider": "openai", "config": {"url": …, "secret": …}}}`; `flowork upstream` does the same',
            extra_json_schema=_about("Models"),
        ),
    ] = {}
    model_budget_day: Annotated[
        float,
        Meta(
            ge=0,
            title="Budget for models in a day",
            description="US dollars that all flows together may spend on models in a day; 0: any. What would pass it "
            "is not asked, and the next of a step's models is tried",
            extra_json_schema=_about("Models", unit="US$"),
        ),
    ] = 0.0
    model_budget_month: Annotated[
        float,
        Meta(
            ge=0,
            title="Budget for models in a month",
            description="The same for a calendar month",
            extra_json_schema=_about("Models", unit="US$"),
        ),
    ] = 0.0
    model_budget_flow: Annotated[
        float,
        Meta(
            ge=0,
            title="Budget for models of one flow in a day",
            description="US dollars that each flow may spend on models in a day, unless its own settings say "
            "otherwise; 0: any",
            extra_json_schema=_about("Models", unit="US$"),
        ),
    ] = 0.0
    model_tokens_day: Annotated[
        int,
        Meta(
            ge=0,
            title="Tokens that leave the machine",
            description="Tokens of prompts and answers that models elsewhere may take in a day; 0: any",
            extra_json_schema=_about("Models", unit="tokens"),
        ),
    ] = 0
    model_cache_mb: Annotated[
        float,
        Meta(
            ge=0,
            le=10_000,
            title="Known answers",
            description="MB of memory for answers at temperature 0 and for vectors, which are given again to the same "
            "question; 0: none are kept",
            extra_json_schema=_about("Models", unit="MB"),
        ),
    ] = 4.0
    model_api: Annotated[
        bool,
        Meta(
            title="Serve models to others",
            description="Answer the OpenAI API at /v1 to engine tokens with the scope `models`, with all models of "
            "this engine",
            extra_json_schema=_about("Models"),
        ),
    ] = False

    agent_port: Annotated[
        int,
        Meta(
            ge=0,
            le=65535,
            title="Port for edge agents",
            description="Where agents on other machines connect, once one is being paired; 0 lets none in",
            extra_json_schema=_about("Devices", restart=True),
        ),
    ] = 5010
    agent_discovery: Annotated[
        bool,
        Meta(
            title="Let agents find this engine",
            description="Tell the local network (mDNS) of the port for edge agents while it is open",
            extra_json_schema=_about("Devices", restart=True),
        ),
    ] = True
    agent_updates: Annotated[
        Literal["manual", "automatic"],
        Meta(
            title="Updates of agents",
            description="`manual`: an agent is updated to this engine's release when you say so. `automatic`: as soon "
            "as it is connected and has an older one; a release that an agent has rolled back is not tried again",
            extra_json_schema=_about("Devices", restart=True),
        ),
    ] = "manual"
    engine_name: Annotated[
        str,
        Meta(
            max_length=60,
            title="Name of this engine",
            description="What other engines show it as; empty: the machine's own name",
            extra_json_schema=_about("Peers", restart=True),
        ),
    ] = ""
    peer_port: Annotated[
        int,
        Meta(
            ge=0,
            le=65535,
            title="Port for other engines",
            description="Where paired engines connect, once one is being paired; 0 lets none in (this engine can still "
            "connect to others)",
            extra_json_schema=_about("Peers", restart=True),
        ),
    ] = 5011
    peer_discovery: Annotated[
        Literal["paired", "always", "never"],
        Meta(
            title="Be found by other engines",
            description="`paired`: tell the local network (mDNS) of this engine, and look for others, while a peer is "
            "paired or being paired. `always`: at any time. `never`: only the addresses below and the last known ones",
            extra_json_schema=_about("Peers", restart=True),
        ),
    ] = "paired"
    peers: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[^\s/,]+$", max_length=300)], ...],
        Meta(
            title="Addresses of other engines",
            description="Tried beside what is found, as 192.168.1.20 or box.lan:5011: for networks that mDNS does not "
            "get through",
            extra_json_schema=_about("Peers", restart=True),
        ),
    ] = ()
    announce_broker: Annotated[
        str,
        Meta(
            max_length=500,
            title="Show flows to Home Assistant",
            description="Broker at which the deployed flows are announced as switches, sensors and buttons: "
            "mqtt://user:{{ secrets.NAME }}@host:1883; empty: not at all. Who may write there can switch and run them",
            extra_json_schema=_about("Devices", restart=True),
        ),
    ] = ""
    announce_prefix: Annotated[
        str,
        Meta(
            pattern=r"^[^+#\x00]+$",
            title="Home Assistant's discovery prefix",
            description="As in Home Assistant's MQTT settings",
            extra_json_schema=_about("Devices", restart=True),
        ),
    ] = "homeassistant"
    agent_dead_man: Annotated[
        float,
        Meta(
            ge=0,
            le=86400,
            title="Outputs without the engine",
            description="Seconds without this engine after which an agent puts its outputs into their safe state; "
            "0: never",
            extra_json_schema=_about("Devices", unit="seconds", restart=True),
        ),
    ] = 60.0
    backup_days: Annotated[
        float,
        Meta(
            ge=0,
            le=365,
            title="Back up every",
            description="Days between backups that are made by themselves; 0: none",
            extra_json_schema=_about("Backups", unit="days"),
        ),
    ] = 0.0
    backup_at: Annotated[
        str,
        Meta(
            pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$",
            title="Back up at",
            description="Time of day from which a backup that is due is made, as 03:30",
            extra_json_schema=_about("Backups"),
        ),
    ] = "03:30"
    backup_to: Annotated[
        str,
        Meta(
            max_length=1000,
            title="Back up to",
            description="A folder that is there (a USB stick), or `rclone:REMOTE:FOLDER` for S3, WebDAV, SSH and "
            "others; empty: `backups/` in the data folder, on the same disk",
            extra_json_schema=_about("Backups"),
        ),
    ] = ""
    backup_keep: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            title="Backups to keep",
            description="How many backups that were made by themselves are kept; older ones are deleted",
            extra_json_schema=_about("Backups"),
        ),
    ] = 7
    backup_keys: Annotated[
        tuple[str, ...],
        Meta(
            title="Encrypt backups to",
            description="Public keys (`age1…`, `ssh-ed25519 …`) that backups are encrypted to; `flowork backup-key` "
            "makes one. Needed for what leaves this machine",
            extra_json_schema=_about("Backups"),
        ),
    ] = ()
    update_auto: Annotated[
        Literal["off", "tell", "install"],
        Meta(
            title="Updates by themselves",
            description="`off`: none is ever looked for. `tell`: once a day it is looked whether the source has a "
            "newer release, and said. `install`: it is brought in then; one that does not do well is taken back, and "
            "not tried again",
            extra_json_schema=_about("Updates"),
        ),
    ] = "off"
    update_from: Annotated[
        str,
        Meta(
            max_length=1000,
            pattern=r"^$|^/|^https?://",
            title="Updates from",
            description="A folder or file (`/media/stick`), or the address of a release file",
            extra_json_schema=_about("Updates"),
        ),
    ] = ""
    update_at: Annotated[
        str,
        Meta(
            pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$",
            title="Look for updates at",
            description="Time of day from which it is looked, as 04:00; everything is started anew for an update",
            extra_json_schema=_about("Updates"),
        ),
    ] = "04:00"
    models_setup: Annotated[
        Literal["unset", "on", "off"],
        Meta(
            title="Make the model engine",
            description="`on`: what runs models is made for this machine in the background, and anew when it has to "
            "be. `off`: not. `unset`: nobody has said; `./scripts/run` and the installer with `--with-models` turn it "
            "on, `flowork models setup` too",
            extra_json_schema=_about("Models"),
        ),
    ] = "unset"
    models_memory_mb: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000_000,
            title="Memory for models",
            description="MiB of memory that loaded models may use together; 0: six tenths of the machine's. Holds from "
            "the model host's next start on",
            extra_json_schema=_about("Models", unit="MiB", restart=True),
        ),
    ] = 0
    models_idle_minutes: Annotated[
        float,
        Meta(
            ge=0,
            le=100_000,
            title="Keep models loaded",
            description="Minutes without work after which the model host ends and gives its memory back; 0: never",
            extra_json_schema=_about("Models", unit="minutes", restart=True),
        ),
    ] = 5.0

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
    if isinstance(getattr(_DEFAULTS, name), dict):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as exc:
            raise ConfigError(f"{name}: must be JSON: {exc}") from None
    if isinstance(getattr(_DEFAULTS, name), tuple):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text
