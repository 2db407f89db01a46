"""Runs one SQL statement in SQLite, PostgreSQL or MySQL/MariaDB.

`url` is `sqlite:///folder/file.db` (in the files folder), `postgresql://user:password@host/name` or
`mysql://user:password@host/name`. The SQL is never a template: values come from `params`, a list for `?` or
an object for `:name`, in every database alike. `many` runs the statement for each of its entries in one
transaction. Gives `{rows, rowcount, lastrowid, truncated}`; dates are ISO texts, decimals numbers, bytes blobs.

    {"url": "sqlite:///plants.db", "sql": "SELECT * FROM reading WHERE plant = :plant AND t > :t",
     "params": {"plant": "{{ payload.plant }}", "t": 30}}
"""

from __future__ import annotations

import datetime
import decimal
import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from msgspec import Meta

from appliance.contracts import Code, Config, ConfigError, Context, Effect, Node, NodeError, Problem, World
from appliance.nodes._databases import DRIVERS, WAYS, Address, Cancel, Job, missing

Params = list[Any] | dict[str, Any]
_KINDS = {
    "sqlite": "sqlite",
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
}
_OPTIONS = {
    "sqlite": set[str](),
    "postgresql": {"sslmode", "sslrootcert", "application_name", "options", "target_session_attrs", "host"},
    "mysql": {"charset", "ssl_ca", "ssl_verify_identity"},
}
_URL_HELP = "must be sqlite:///file.db, postgresql://user:password@host/name or mysql://user:password@host/name"


class DatabaseConfig(Config, frozen=True):
    url: Annotated[str, Meta(title="Database", description=_URL_HELP, extra_json_schema={"format": "password"})]
    sql: Annotated[Code, Meta(title="SQL", description="With ? or :name for values; never a template.", min_length=1)]
    params: Annotated[Params | None, Meta(title="Values", description="A list for ?, an object for :name.")] = None
    many: Annotated[list[Params] | None, Meta(title="Many", description="Run once for each, all or none.")] = None
    limit: Annotated[int, Meta(title="Most rows", ge=1, le=100_000)] = 1_000
    effect: Annotated[
        Literal["auto", "idempotent", "once"],
        Meta(title="Repeating it", description="auto: does no harm if it only reads. Say idempotent for an upsert."),
    ] = "auto"


class Database(Node[DatabaseConfig]):
    Config = DatabaseConfig
    title = "Database"
    category = "data"
    icon = "database"
    effect = Effect.ONCE

    def effect_of(self, config: Mapping[str, Any]) -> Effect:
        said = config.get("effect", "auto")
        if said == "auto":
            return Effect.IDEMPOTENT if _only_reads(str(config.get("sql", ""))) else Effect.ONCE
        return Effect.IDEMPOTENT if said == "idempotent" else Effect.ONCE

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        url = str(config["url"])
        kind = _KINDS.get(url.partition("://")[0])
        if kind is None and not url.startswith("{"):
            yield Problem("url", _URL_HELP)
        if kind in DRIVERS and not world.has_module(DRIVERS[kind][0]):
            yield Problem("url", missing(*DRIVERS[kind]))
        if config.get("many") is not None and config.get("params") is not None:
            yield Problem("many", "takes the place of params; give one of them")

    def run(self, ctx: Context, config: DatabaseConfig, payload: Any) -> Any:
        address = _address(config.url)
        job = _job(ctx, config, address.kind)
        if config.many is not None and not config.many:
            return {"rows": [], "rowcount": 0, "lastrowid": None, "truncated": False}
        cancel = Cancel()
        ctx.on_cancel(cancel.set)
        try:
            answer = WAYS[address.kind](ctx, address, job, cancel)
        except (UnicodeError, OverflowError) as exc:
            raise NodeError(f"a value does not fit the database: {exc}", retryable=False) from None
        finally:
            cancel.finish()
        names = _unique(answer.columns)
        rows = [dict(zip(names, (_plain(ctx, value) for value in row), strict=True)) for row in answer.rows]
        return {
            "rows": rows[: job.limit],
            "rowcount": min(len(rows), job.limit) if job.reads else max(answer.rowcount, 0),
            "lastrowid": answer.lastrowid,
            "truncated": len(rows) > job.limit,
        }


# --- what is asked ------------------------------------------------------------------------------------


def _address(url: str) -> Address:
    try:
        parts = urlsplit(url)
        kind, port, host = _KINDS[parts.scheme], parts.port, parts.hostname or ""
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except (ValueError, KeyError):
        # Its text may hold a piece of the password.
        message = f"url: {_URL_HELP}; percent-encode special characters in the password"
        raise ConfigError(message) from None
    if unknown := options.keys() - _OPTIONS[kind]:
        raise ConfigError(f"url: {kind} has no option {', '.join(sorted(unknown))}")
    if kind == "sqlite" and parts.netloc:
        raise ConfigError("url: a path takes three slashes (sqlite:///file.db), an absolute one four")
    user, password = (text if text is None else unquote(text) for text in (parts.username, parts.password))
    return Address(kind, host, port, user, password, unquote(parts.path[1:]), options)


def _job(ctx: Context, config: DatabaseConfig, kind: str) -> Job:
    reads = _only_reads(config.sql) and config.effect != "once"
    if config.many is None:
        return Job(*_bind(ctx, config.sql, config.params, kind), None, reads, config.limit)
    if config.params is not None or reads:
        raise ConfigError("many: is for statements that change something, and takes the place of params")
    bound = [_bind(ctx, config.sql, params, kind) for params in config.many]
    if len({sql for sql, _ in bound}) > 1:
        raise ConfigError("many: its entries must be all lists or all objects")
    return Job(bound[0][0] if bound else "", None, [params for _, params in bound], reads, config.limit)


#: Comments, texts and quoted names are passed over; the rest is what placeholders and keywords can be.
_PATTERN = r"""(?P<skip>--[^\n]*|/\*(?!!).*?\*/|(?<!\w)[eE]'(?:[^'\\]|\\.)*'|{text}|`[^`]*`
    |\$(?P<tag>[A-Za-z_]\w*)?\$.*?\$(?(tag)(?P=tag))\$|::|:=)
    |(?P<name>(?<!\w):[A-Za-z_]\w*)|(?P<mark>\?)|(?P<percent>%)|(?P<word>[A-Za-z_]\w*)|(?P<end>;)"""
_FLAGS = re.DOTALL | re.VERBOSE
_STANDARD = re.compile(_PATTERN.format(text=r"""'(?:[^']|'')*'|"(?:[^"]|"")*\""""), _FLAGS)
_MYSQL = re.compile(_PATTERN.format(text=r"""'(?:[^'\\]|''|\\.)*'|"(?:[^"\\]|""|\\.)*"|\#[^\n]*"""), _FLAGS)


def _only_reads(sql: str) -> bool:
    """Whether it can only read; when in doubt, no. The database is told so too and refuses to write."""
    words: list[str] = []
    ended = False
    for token in _STANDARD.finditer(sql):
        if token["end"]:
            ended = True
        elif not token["skip"]:
            if ended:
                return False
            words.append(token[0].upper())
    writes = {"INSERT", "UPDATE", "DELETE", "MERGE", "INTO"}
    return bool(words) and words[0] in {"SELECT", "WITH", "VALUES", "SHOW"} and not writes & set(words)


def _bind(ctx: Context, sql: str, params: Params | None, kind: str) -> tuple[str, Any]:
    """The statement and its values in the driver's own form."""
    pattern = _MYSQL if kind == "mysql" else _STANDARD
    if params is None:
        return sql, () if kind == "sqlite" else None
    names = {token["name"][1:] for token in pattern.finditer(sql) if token["name"]}
    marks = sum(1 for token in pattern.finditer(sql) if token["mark"])
    if isinstance(params, dict):
        if missing := names - params.keys():
            raise ConfigError(f"params: there is no value for :{', :'.join(sorted(missing))}")
        values: Any = {name: _value(ctx, params[name], kind) for name in names}
    elif names or (marks != len(params) and "?1" not in sql):
        raise ConfigError(f"params: {len(params)} values for {marks} times ? and {len(names)} names")
    else:
        values = [_value(ctx, item, kind) for item in params]
    if kind == "sqlite":
        return sql, values
    return pattern.sub(lambda token: _translated(token, by_name=isinstance(params, dict)), sql), values


def _translated(token: re.Match[str], *, by_name: bool) -> str:
    """The drivers of the servers know %s and %(name)s, and take every other % in the text doubled."""
    if by_name and token["name"]:
        return f"%({token['name'][1:]})s"
    if not by_name and token["mark"]:
        return "%s"
    return token[0].replace("%", "%%")


def _value(ctx: Context, value: Any, kind: str) -> Any:
    if isinstance(value, dict):
        return ctx.blobs.get(value) if "$blob" in value else msgspec.json.encode(value).decode()
    if isinstance(value, list) and kind != "postgresql":  # It has arrays.
        return msgspec.json.encode(value).decode()
    return value


# --- what is answered ---------------------------------------------------------------------------------


def _unique(columns: Iterable[str]) -> list[str]:
    """``id, id`` (of a join) becomes ``id, id_2``: an object would keep only one."""
    names: dict[str, None] = {}
    for column in columns:
        name, number = column, 1
        while name in names:
            number += 1
            name = f"{column}_{number}"
        names[name] = None
    return list(names)


def _plain(ctx: Context, value: Any) -> Any:
    """A database value as JSON has it."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, decimal.Decimal):
        if not value.is_finite():
            return None
        return int(value) if value == value.to_integral_value() and value.as_tuple().exponent == 0 else float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes | bytearray | memoryview):
        return ctx.blobs.put(bytes(value))
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): _plain(ctx, item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(ctx, item) for item in value]
    return str(value)
