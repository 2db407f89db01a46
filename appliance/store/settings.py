"""The engine's settings: each one once, with its default, bounds and help.

Adding a setting is adding a field; form, documentation and JSON Schema follow from it. Where a value comes from is
in ``settings_store.py``.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterable
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from appliance.contracts.peers import PEER_PORT


def _about(group: str, title: str, text: str, *, unit: str = "", restart: bool = False) -> Meta:
    """A setting as its form shows it. With ``restart`` it holds from the next start on."""
    marks = {"x-flowork-group": group, "x-flowork-unit": unit, "x-flowork-restart": restart}
    shown = {name: value for name, value in marks.items() if value}
    return Meta(title=title, description=text, extra_json_schema=shown)


_history = partial(_about, "History")
_running = partial(_about, "Running")
_access = partial(_about, "Access")
_time = partial(_about, "Time")
_models = partial(_about, "Models")
_devices = partial(_about, "Devices")
_peers = partial(_about, "Peers")
_backups = partial(_about, "Backups")
_updates = partial(_about, "Updates")


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an owner can set for the whole engine."""

    # --- History ----------------------------------------------------------------------------------------

    keep_days: Annotated[
        float,
        Meta(ge=0, le=3650),
        _history("Keep runs that succeeded", "Days for which runs that succeeded are kept", unit="days"),
    ] = 30.0
    keep_failed_days: Annotated[
        float,
        Meta(ge=0, le=3650),
        _history("Keep runs that did not succeed", "Days for which runs that did not succeed are kept", unit="days"),
    ] = 90.0
    max_history_bytes: Annotated[
        int,
        Meta(ge=10_000_000),
        _history(
            "Size of the history", "Bytes the history may take on disk; beyond, the oldest runs go first", unit="bytes"
        ),
    ] = 2_000_000_000
    max_snapshot_bytes: Annotated[
        int,
        Meta(ge=1024, le=100_000_000),
        _history(
            "Size of one value", "Bytes of one value kept with a step; longer ones are cut", unit="bytes", restart=True
        ),
    ] = 262_144
    write_budget_mb: Annotated[
        float,
        Meta(ge=0, le=1_000_000),
        _history(
            "Writing to the disk",
            "MB that may be written to the disk in a day. Beyond, runs without effects come into the "
            "history once a minute instead of at once. 0: no bound. By default it counts on SD cards and eMMC only; "
            "a value that you set counts on any disk",
            unit="MB a day",
        ),
    ] = 100.0

    # --- Running ----------------------------------------------------------------------------------------

    queue_bound: Annotated[
        int,
        Meta(ge=1, le=10_000_000),
        _running("Runs at once", "Runs that may wait or go on; beyond, events are refused", unit="runs", restart=True),
    ] = 10_000
    integrity: Annotated[
        Literal["ignore", "report", "refuse"],
        _running(
            "Installed files",
            "They are compared with the list that was signed when they were installed, at the start and "
            "once a day. report: a difference is told; refuse: the kernel rests in safe mode until it is mended",
            restart=True,
        ),
    ] = "report"
    durability: Annotated[
        Literal["power", "process"],
        _running(
            "What is acknowledged survives",
            "`power`: what is acknowledged survives a power cut. `process`: only kill -9; faster, "
            "and the last moments may be lost at a power cut",
            restart=True,
        ),
    ] = "power"
    file_roots: Annotated[
        tuple[str, ...],
        _running("Folders for flows", "Folders that flows may read and write; the data folder's files/ is always one"),
    ] = ()

    # --- Access -----------------------------------------------------------------------------------------

    rate_limit: Annotated[
        float,
        Meta(gt=0, le=100_000),
        _access("Requests of one caller", "API requests a second that one caller may make", unit="a second"),
    ] = 50.0
    rate_burst: Annotated[
        int,
        Meta(ge=1, le=1_000_000),
        _access(
            "Requests of one caller at once", "API requests one caller may make at once after a pause", unit="requests"
        ),
    ] = 200
    sign_ins_per_minute: Annotated[
        int,
        Meta(ge=1, le=10_000),
        _access("Attempts to sign in", "Attempts to sign in that one address may make in a minute", unit="a minute"),
    ] = 10
    max_request_bytes: Annotated[
        int,
        Meta(ge=1024, le=1_000_000_000),
        _access("Size of a request", "Bytes an HTTP request may have", unit="bytes"),
    ] = 5_000_000
    session_hours: Annotated[
        float,
        Meta(gt=0, le=8760),
        _access("Stay signed in", "Hours after which the panel asks to sign in again", unit="hours"),
    ] = 168.0
    allowed_origins: Annotated[
        tuple[str, ...], _access("Panels elsewhere", "Web pages (https://host) that may call the API from a browser")
    ] = ()
    https: Annotated[
        Literal["off", "on", "only"],
        _access(
            "HTTPS",
            "`on`: the port answers https too, with a certificate of this engine's own authority "
            "(`/certificate` installs it), and sends browsers there; programs may go on with http. `only`: nothing "
            "but that page is given over http, except to this machine itself",
        ),
    ] = "off"
    tunnel_port: Annotated[
        int,
        Meta(ge=0, le=65535),
        _access(
            "Port for a tunnel",
            "A port of this machine alone (127.0.0.1), to which a tunnel from the internet hands what "
            "it gets: there everything needs a sign-in or a token. 0: none",
            restart=True,
        ),
    ] = 0
    tunnel_hooks: Annotated[
        Literal["token", "open", "off"],
        _access(
            "Webhooks from a tunnel",
            "`token`: they need an engine token with the scope `events:write` besides their secret "
            "address. `open`: the address is enough, for senders that know no tokens. `off`: none are taken",
        ),
    ] = "token"

    # --- Time -------------------------------------------------------------------------------------------

    clock: Annotated[
        Literal["wait", "trust"],
        _time(
            "Trust the clock",
            "`wait`: schedules start once the system clock is known to be right. `trust`: at once, "
            "for a machine with a battery-backed clock and no network time",
            restart=True,
        ),
    ] = "wait"
    timezone: Annotated[
        str, _time("Time zone", "Time zone of schedules, as Europe/Berlin; empty: the machine's own")
    ] = ""

    # --- Models -----------------------------------------------------------------------------------------

    model_default: Annotated[
        tuple[str, ...],
        _models(
            "Models by default",
            "Tried in this order where a step names none: NAME is this machine's, UPSTREAM/NAME an "
            "upstream's; empty: the first model of this machine",
        ),
    ] = ()
    model_embed: Annotated[
        str,
        _models(
            "Model for embeddings",
            "Taken where a step names none; empty: the first model of this machine that makes vectors",
        ),
    ] = ""
    model_upstreams: Annotated[
        dict[str, dict[str, Any]],
        _models(
            "Upstreams",
            "Other places with models, by name: "
            '`{"NAME": {"provider": "openai", "config": {"url": …, "secret": …}}}`; `flowork upstream` does the same',
        ),
    ] = {}
    model_budget_day: Annotated[
        float,
        Meta(ge=0),
        _models(
            "Budget for models in a day",
            "US dollars that all flows together may spend on models in a day; 0: any. What would pass it "
            "is not asked, and the next of a step's models is tried",
            unit="US$",
        ),
    ] = 0.0
    model_budget_month: Annotated[
        float, Meta(ge=0), _models("Budget for models in a month", "The same for a calendar month", unit="US$")
    ] = 0.0
    model_budget_flow: Annotated[
        float,
        Meta(ge=0),
        _models(
            "Budget for models of one flow in a day",
            "US dollars that each flow may spend on models in a day, unless its own settings say otherwise; 0: any",
            unit="US$",
        ),
    ] = 0.0
    model_tokens_day: Annotated[
        int,
        Meta(ge=0),
        _models(
            "Tokens that leave the machine",
            "Tokens of prompts and answers that models elsewhere may take in a day; 0: any",
            unit="tokens",
        ),
    ] = 0
    model_cache_mb: Annotated[
        float,
        Meta(ge=0, le=10_000),
        _models(
            "Known answers",
            "MB of memory for answers at temperature 0 and for vectors, which are given again to the same "
            "question; 0: none are kept",
            unit="MB",
        ),
    ] = 4.0
    model_api: Annotated[
        bool,
        _models(
            "Serve models to others",
            "Answer the OpenAI API at /v1 to engine tokens with the scope `models`, with all models of this engine",
        ),
    ] = False
    models_setup: Annotated[
        Literal["unset", "on", "off"],
        _models(
            "Make the model engine",
            "`on`: what runs models is made for this machine in the background, and anew when it has to "
            "be. `off`: not. `unset`: nobody has said; `./scripts/run` and the installer with `--with-models` turn it "
            "on, `flowork models setup` too",
        ),
    ] = "unset"
    models_memory_mb: Annotated[
        int,
        Meta(ge=0, le=10_000_000),
        _models(
            "Memory for models",
            "MB of memory that loaded models may use together; 0: six tenths of the machine's. A model host "
            "that runs starts anew for it: when it has nothing to do, at the latest when what it does after half a "
            "minute is done",
            unit="MB",
        ),
    ] = 0
    models_idle_minutes: Annotated[
        float,
        Meta(ge=0, le=100_000),
        _models(
            "Keep models loaded",
            "Minutes without work after which the model host ends and gives its memory back; 0: never",
            unit="minutes",
        ),
    ] = 5.0

    # --- Devices ----------------------------------------------------------------------------------------

    agent_port: Annotated[
        int,
        Meta(ge=0, le=65535),
        _devices(
            "Port for edge agents",
            "Where agents on other machines connect, once one is being paired; 0 lets none in",
            restart=True,
        ),
    ] = 5010
    agent_discovery: Annotated[
        bool,
        _devices(
            "Let agents find this engine",
            "Tell the local network (mDNS) of the port for edge agents while it is open",
            restart=True,
        ),
    ] = True
    agent_updates: Annotated[
        Literal["manual", "automatic"],
        _devices(
            "Updates of agents",
            "`manual`: an agent is updated to this engine's release when you say so. `automatic`: as soon "
            "as it is connected and has an older one; a release that an agent has rolled back is not tried again",
            restart=True,
        ),
    ] = "manual"
    announce_broker: Annotated[
        str,
        Meta(max_length=500, pattern=r"^$|^mqtts?://"),
        _devices(
            "Show flows to Home Assistant",
            "Broker at which the deployed flows are announced as switches, sensors and buttons: "
            "mqtt://user:{{ secrets.NAME }}@host:1883; empty: not at all. Who may write there can switch and run them",
            restart=True,
        ),
    ] = ""
    announce_prefix: Annotated[
        str,
        Meta(pattern=r"^[^+#\x00]+$"),
        _devices("Home Assistant's discovery prefix", "As in Home Assistant's MQTT settings", restart=True),
    ] = "homeassistant"
    agent_dead_man: Annotated[
        float,
        Meta(ge=0, le=86400),
        _devices(
            "Outputs without the engine",
            "Seconds without this engine after which an agent puts its outputs into their safe state; 0: never",
            unit="seconds",
            restart=True,
        ),
    ] = 60.0

    # --- Peers ------------------------------------------------------------------------------------------

    engine_name: Annotated[
        str,
        Meta(max_length=60),
        _peers("Name of this engine", "What other engines show it as; empty: the machine's own name", restart=True),
    ] = ""
    peer_port: Annotated[
        int,
        Meta(ge=0, le=65535),
        _peers(
            "Port for other engines",
            "Where paired engines connect, once one is being paired; 0 lets none in (this engine can still "
            "connect to others)",
            restart=True,
        ),
    ] = PEER_PORT
    peer_discovery: Annotated[
        Literal["paired", "always", "never"],
        _peers(
            "Be found by other engines",
            "`paired`: tell the local network (mDNS) of this engine, and look for others, while a peer is "
            "paired or being paired. `always`: at any time. `never`: only the addresses below and the last known ones",
            restart=True,
        ),
    ] = "paired"
    peers: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[^\s/,]+$", max_length=300)], ...],
        _peers(
            "Addresses of other engines",
            "Tried beside what is found, as 192.168.1.20 or box.lan:5011: for networks that mDNS does not get through",
            restart=True,
        ),
    ] = ()

    # --- Backups ----------------------------------------------------------------------------------------

    backup_days: Annotated[
        float,
        Meta(ge=0, le=365),
        _backups("Back up every", "Days between backups that are made by themselves; 0: none", unit="days"),
    ] = 0.0
    backup_at: Annotated[
        str,
        Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$"),
        _backups("Back up at", "Time of day from which a backup that is due is made, as 03:30"),
    ] = "03:30"
    backup_to: Annotated[
        str,
        Meta(max_length=1000),
        _backups(
            "Back up to",
            "A folder that is there (a USB stick), or `rclone:REMOTE:FOLDER` for S3, WebDAV, SSH and "
            "others; empty: `backups/` in the data folder, on the same disk",
        ),
    ] = ""
    backup_keep: Annotated[
        int,
        Meta(ge=1, le=1000),
        _backups("Backups to keep", "How many backups that were made by themselves are kept; older ones are deleted"),
    ] = 7
    backup_keys: Annotated[
        tuple[str, ...],
        _backups(
            "Encrypt backups to",
            "Public keys (`age1…`, `ssh-ed25519 …`) that backups are encrypted to; `flowork backup-key` "
            "makes one. Needed for what leaves this machine",
        ),
    ] = ()

    # --- Updates ----------------------------------------------------------------------------------------

    update_auto: Annotated[
        Literal["off", "tell", "install"],
        _updates(
            "Updates by themselves",
            "`off`: none is ever looked for. `tell`: once a day it is looked whether the source has a "
            "newer release, and said. `install`: it is brought in then; one that does not do well is taken back, and "
            "not tried again",
        ),
    ] = "off"
    update_from: Annotated[
        str,
        Meta(max_length=1000, pattern=r"^$|^/|^https?://|^peer:."),
        _updates(
            "Updates from",
            "A folder or file (`/media/stick`), the address of a release file, or a paired engine (`peer:laptop`)",
        ),
    ] = ""
    update_at: Annotated[
        str,
        Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$"),
        _updates(
            "Look for updates at",
            "Time of day from which it is looked, as 04:00; everything is started anew for an update",
        ),
    ] = "04:00"

    def __post_init__(self) -> None:
        if self.timezone and not _is_zone(self.timezone):
            raise ValueError(f"{self.timezone!r} is no time zone; write one as Europe/Berlin")
        for origin in self.allowed_origins:
            if not origin.startswith(("http://", "https://")):
                raise ValueError(f"{origin!r} is no origin; write it as https://host or http://host:port")


NAMES = Settings.__struct_fields__
DEFAULTS = Settings()


def schema() -> dict[str, Any]:
    """The JSON Schema of the settings: types, bounds, defaults and help."""
    found = msgspec.json.schema(Settings)["$defs"]["Settings"]
    return dict(found)


def held_at_start(names: Iterable[str]) -> list[str]:
    """Those of the names whose new values hold from the next start on."""
    fields = schema()["properties"]
    return [name for name in names if fields.get(name, {}).get("x-flowork-restart")]


def _is_zone(name: str) -> bool:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True
