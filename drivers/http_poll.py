"""A page of a device's or service's HTTP interface, fetched on an interval; its changes are events.

`select` takes one value out of a JSON page (`main.temp`, `sensors[0].value`); left empty, the page itself is the value:
JSON as such, text as text, anything else as its size and SHA-256. The first value is told as `initial`, later ones as
`changed` when they differ (numbers by `change` or more), or each time as `reading` with `every`. A page that did not
come `patience` times in a row is `lost`.

The command `{"fetch": true}` fetches it at once and gives back the value.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from drivers.base import Driver, DriverConfig, DriverError, Emit, Entity, Host, Observation, Stop, decode_command
from drivers.support import fetch, jsonpath
from drivers.support.worker import Watch, Worker


class HttpPollConfig(DriverConfig, frozen=True):
    url: Annotated[str, Meta(title="URL", description="http:// or https://", min_length=8)]
    interval: Annotated[float, Meta(title="Seconds between fetches", ge=0.1, le=86400)] = 60.0
    select: Annotated[str, Meta(title="Value in the JSON", description="main.temp; empty: the page")] = ""
    change: Annotated[float, Meta(title="Numbers: least change that is told", ge=0)] = 0.0
    every: Annotated[bool, Meta(title="Tell each fetch")] = False
    headers: Annotated[dict[str, str], Meta(title="Headers")] = {}
    timeout: Annotated[float, Meta(title="Timeout", description="Seconds", gt=0, le=300)] = 10.0
    longest: Annotated[int, Meta(title="Longest page", description="Bytes", ge=1, le=16_777_216)] = 1_048_576
    verify: Annotated[bool, Meta(title="Check the certificate")] = True
    patience: Annotated[int, Meta(title="Failures in a row that count as lost", ge=1, le=1000)] = 3


class _Command(Struct, forbid_unknown_fields=True):
    fetch: bool


class HttpPoll(Driver[HttpPollConfig]):
    type = "http_poll"
    title = "HTTP page"
    Config = HttpPollConfig

    def __init__(self, config: HttpPollConfig, host: Host) -> None:
        super().__init__(config, host)
        self._lock = threading.Lock()
        self._fetchers: set[fetch.Fetcher] | None = None  # requests under way, while open
        self._watching = Watch()

    def open(self) -> None:
        """Checks the config only: a page that is away may come later."""
        fetch.check(self.config.url)
        jsonpath.steps(self.config.select)
        if any("\n" in text or "\r" in text for pair in self.config.headers.items() for text in pair):
            raise DriverError("headers: a header is one line", retryable=False)
        with self._lock:
            if self._fetchers is None:
                self._fetchers = set()

    def close(self) -> None:
        with self._lock:
            under_way, self._fetchers = self._fetchers or set(), None
        for fetcher in under_way:
            fetcher.stop()
        self._watching.end()

    def events(self, emit: Emit) -> Stop:
        fetcher = self._begin()
        try:
            stop = self._watching.begin(f"http {self._source()}", emit, lambda worker: self._watch(worker, fetcher))
        except DriverError:
            self._end(fetcher)
            raise

        def stop_both() -> None:
            fetcher.stop()
            stop()
            self._end(fetcher)

        return stop_both

    def write(self, command: Mapping[str, Any]) -> Any:
        if not decode_command(_Command, command, self._source()).fetch:
            raise DriverError('the command is {"fetch": true}', retryable=False)
        fetcher = self._begin()
        try:
            return {"value": Pages(self.config, fetcher).next()}
        finally:
            self._end(fetcher)

    def entities(self) -> list[Entity]:
        schema = msgspec.json.schema(_Command)["$defs"]["_Command"]
        return [Entity(self._source(), f"Page {self._source()} {self.config.select}".strip(), "text", "", True, schema)]

    def _source(self) -> str:
        """Without what may be secret in it."""
        parts = urlsplit(self.config.url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"

    def _begin(self) -> fetch.Fetcher:
        fetcher = fetch.Fetcher(self.config.timeout, self.config.longest, self.config.verify)
        with self._lock:
            if self._fetchers is None:
                raise DriverError(f"{self._source()} is not open")
            self._fetchers.add(fetcher)
        return fetcher

    def _end(self, fetcher: fetch.Fetcher) -> None:
        with self._lock:
            if self._fetchers is not None:
                self._fetchers.discard(fetcher)

    def _watch(self, worker: Worker, fetcher: fetch.Fetcher) -> None:
        pages = Pages(self.config, fetcher)
        told: Any = msgspec.UNSET
        failures, lost = 0, 0.0
        while not worker.stopping:
            began = self.host.monotonic()
            try:
                value = pages.next()
            except DriverError as exc:
                failures += 1
                if failures == self.config.patience and not worker.stopping:
                    lost = began
                    self._tell("lost", exc.message)
            else:
                if failures >= self.config.patience:
                    self._tell("gap", round(began - lost, 3))
                failures = 0
                if told is msgspec.UNSET or _differs(told, value, self.config.change):
                    self._tell("initial" if told is msgspec.UNSET else "changed", value)
                    told = value
                elif self.config.every:
                    self._tell("reading", value)
            if not worker.pause(max(0.0, began + self.config.interval - self.host.monotonic())):
                return

    def _tell(self, kind: str, value: Any) -> None:
        priority = -1 if kind == "reading" else 0
        self._watching.tell(Observation(self._source(), kind, value, self.host.now(), {}, priority))


class Pages:
    """The page, fetched anew only if the server does not know it unchanged."""

    def __init__(self, config: HttpPollConfig, fetcher: fetch.Fetcher) -> None:
        self._config = config
        self._fetcher = fetcher
        self._select = jsonpath.steps(config.select)
        self._marks: dict[str, str] = {}
        self._value: Any = None

    def next(self) -> Any:
        """The value now. Raises ``DriverError``."""
        page = self._fetcher.get(self._config.url, {"User-Agent": "Flowork", **self._marks, **self._config.headers})
        if page.status == 304 and self._marks:
            return self._value
        if not 200 <= page.status < 300:
            raise DriverError(f"it answers with status {page.status}")
        self._value = self._read(page)
        names = {"If-None-Match": "etag", "If-Modified-Since": "last-modified"}
        self._marks = {name: page.headers[mark] for name, mark in names.items() if mark in page.headers}
        return self._value

    def _read(self, page: fetch.Page) -> Any:
        kind = page.headers.get("content-type", "").split(";")[0].strip().lower()
        if self._select or kind.endswith("json"):
            try:
                value = msgspec.json.decode(page.body)
            except msgspec.DecodeError:
                raise DriverError("the page is not JSON") from None
            try:
                return jsonpath.pick(value, self._select)
            except LookupError as exc:
                raise DriverError(f"select: {exc.args[0]} in the page") from None
        if kind.startswith("text/") or kind in ("", "application/xml"):
            try:
                return page.body.decode()
            except UnicodeError:
                pass
        return {"sha256": hashlib.sha256(page.body).hexdigest(), "size": len(page.body), "type": kind}


def _differs(before: Any, now: Any, change: float) -> bool:
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (before, now))
    return now != before and (not numbers or abs(now - before) >= change)
