"""The fleet: every edge agent's connection on one thread, and what flows see of it as ``ctx.devices``.

An agent's events go to the trigger that asked for them and are acknowledged once their runs are on disk. What an agent
is to do follows from who watches; it is told of changes within a tenth of a second, and never while the engine is still
attaching its triggers or has begun to stop, for then some only seem to be gone.
"""

from __future__ import annotations

import itertools
import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from appliance.contracts import (
    AgentState,
    Blobs,
    ConfigError,
    DeviceEvent,
    DeviceState,
    NodeError,
    Pending,
)
from appliance.fleet.book import Book, Paired
from appliance.fleet.delivery import Delivery, OnEvents, OnStatus
from appliance.fleet.door import Door, Visitor
from appliance.fleet.link import Link, decode
from appliance.fleet.live import LiveNews
from appliance.fleet.remote import GRACE, Call, Remote, Wanted, plain
from appliance.fleet.values import Values
from drivers.base import Driver, DriverError, find
from drivers.base import decode as decode_config
from edge_agent.protocol import messages
from edge_agent.protocol.channel import Channel, ChannelClosed

logger = logging.getLogger(__name__)

SOCKET = "agent.sock"
#: Seconds that a change of what is wanted waits for more.
SETTLE = 0.1
#: Seconds after which agents are told what is wanted even if some trigger still hangs in its attach.
ATTACHING = 15.0
#: Seconds that an agent which is connected already has to show that it is still there.
PROOF = 2.0
#: Seconds to wait after an error that nobody thought of.
STUMBLED = 0.2
#: Events of one watch that may have come and not be acknowledged; an agent keeps to ``WINDOW``.
MOST_PENDING = 4 * messages.WINDOW
#: Seconds that stopping waits for acknowledgements to go out.
LAST_WORDS = 1.0


class Fleet:
    """Implements :class:`appliance.contracts.Devices`. ``tell`` takes live events (any thread)."""

    def __init__(
        self,
        data: Path,
        blobs: Blobs,
        wall: Callable[[], float],
        *,
        engine: str,
        dead_man: float,
        port: int = 0,
        announce: bool = False,
        owned: Callable[[], bool] = lambda: False,
        tell: Callable[[dict[str, Any]], None] = lambda item: None,
    ) -> None:
        """``port`` 0: no agents from other machines. ``owned``: whether the engine has an owner."""
        self._data = data
        self._blobs = blobs
        self._wall = wall
        self._dead_man = dead_man
        self._book = Book(data)
        self._values = Values()
        self._news = LiveNews(tell)
        self.door = Door(data, self._book, engine, port, announce, owned, self._welcome_visitor, self._paired)
        self._remotes: dict[str, Remote] = {}
        self._links: set[Link] = set()
        self._selector = selectors.DefaultSelector()
        self._calls: deque[Callable[[], None]] = deque()
        self._numbers = itertools.count(1)
        self._bell_read, self._bell_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._configure_at = 0.0
        self._held_until = 0.0
        self._frozen = False
        self._stopping = False

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen for this machine's agent, and for others if any are paired."""
        now = self._wall()
        self._remotes[""] = Remote("", None, now)
        for paired in self._book.all():
            self._remotes[paired.name] = Remote(paired.name, paired, now)
        self._listener = _listen(self._data)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._bell_read, selectors.EVENT_READ)
        self._held_until = time.monotonic() + ATTACHING
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)
        self._thread.start()
        self.door.open_if_needed()

    def attached(self) -> None:
        """All triggers have been tried: agents may be told what is wanted."""
        self.post(self._release)

    def _release(self) -> None:
        self._held_until = 0.0
        self._soon()

    def freeze(self) -> None:
        """The engine begins to stop: triggers that go away now are still wanted."""
        self._frozen = True

    def stop(self) -> None:
        """Send the last acknowledgements and end every connection. Twice is fine."""
        self.freeze()
        self.door.close()
        if self._thread is None or self._stopping:
            return
        self._stopping = True
        self._ring()
        self._thread.join()
        self._selector.close()
        os.close(self._bell_read)
        bell, self._bell_write = self._bell_write, -1
        os.close(bell)

    def post(self, call: Callable[[], None]) -> None:
        """Do something on the fleet's thread. Safe from any."""
        self._calls.append(call)
        self._ring()

    def _ring(self) -> None:
        try:
            os.write(self._bell_write, b"x")
        except (BlockingIOError, OSError):
            pass  # full: it will be heard; closed: there is nobody any more

    # --- Devices: what flows ask for ---------------------------------------------------------------

    def watch(
        self,
        agent: str,
        driver: str,
        config: Mapping[str, Any],
        watcher: str,
        on_events: OnEvents,
        on_status: OnStatus,
        cursor: Any = None,
    ) -> Callable[[], None]:
        """As the contract says."""
        checked = self._checked(agent, driver, config)
        name = watcher or f"~{next(self._numbers)}"
        wanted = Wanted(driver, checked, source_key(driver, checked), bool(watcher))
        listening = [True]

        def begin() -> None:
            if listening[0]:
                self._watch(agent, name, wanted, on_events, on_status, cursor)

        def end() -> None:
            if listening[0]:
                listening[0] = False
                self.post(lambda: self._unwatch(agent, name, wanted))

        self.post(begin)
        return end

    def command(
        self,
        agent: str,
        driver: str,
        config: Mapping[str, Any],
        command: Mapping[str, Any],
        key: str,
        timeout: float,
        repeatable: bool = False,
    ) -> Pending:
        """As the contract says."""
        checked, now = self._checked(agent, driver, config), time.monotonic()
        message = messages.Command(
            id=next(self._numbers),
            key=key,
            driver=driver,
            config=checked,
            command=plain(command),
            timeout=timeout,
            repeatable=repeatable,
        )
        call = Call(message, Pending(), now + timeout, now + min(timeout, GRACE), timeout)
        self.post(lambda: self._call(agent, call))
        return call.pending

    def agents(self) -> list[AgentState]:
        """As the contract says."""
        remotes = list(self._remotes.values())
        return [remote.state() for remote in sorted(remotes, key=lambda remote: remote.name)]

    def entities(self, agent: str | None = None) -> list[DeviceState]:
        """As the contract says."""
        found = []
        remotes = [remote for remote in list(self._remotes.values()) if agent is None or remote.name == agent]
        for remote in sorted(remotes, key=lambda remote: remote.name):
            for report in remote.report.drivers if remote.report else []:
                key = source_key(report.driver, report.config)
                found += [self._entity(remote, report, key, entity) for entity in report.entities]
        return found

    def look(self, agent: str, driver: str, config: Mapping[str, Any], seconds: float) -> Pending:
        """Run a driver for so long and see what there is: ``{"ok", "text", "devices"}``. Raises ``ConfigError``."""
        checked = self._checked(agent, driver, config)
        key, pending, told = source_key(driver, checked), Pending(), [(False, "it has not been heard of")]

        def ignore(events: list[DeviceEvent]) -> None:
            for event in events:
                event.ack()

        stop = self.watch(agent, driver, checked, "", ignore, lambda ok, text: told.append((ok, text)))

        def done() -> None:
            states = [each for each in self.entities(agent) if source_key(each.driver, each.config) == key]
            stop()
            pending.complete({"ok": told[-1][0], "text": told[-1][1], "devices": msgspec.to_builtins(states)})

        self.post(lambda: self._later.append((time.monotonic() + seconds, done)))
        return pending

    def history(self, agent: str, driver: str, config: Mapping[str, Any], source: str) -> list[tuple[float, float]]:
        """As the contract says."""
        return self._values.history((agent, source_key(driver, self._checked(agent, driver, config)), source))

    def _entity(self, remote: Remote, report: messages.DriverReport, key: str, entity: dict[str, Any]) -> DeviceState:
        last = self._values.last((remote.name, key, entity["id"]))
        return DeviceState(
            agent=remote.name,
            driver=report.driver,
            config=report.config,
            id=entity["id"],
            name=entity["name"],
            kind=entity["kind"],
            unit=entity.get("unit", ""),
            writable=entity.get("writable", False),
            commands=entity.get("commands", {}),
            value=last.value if last else None,
            last=last.kind if last else "",
            time=last.time if last else 0.0,
            online=remote.link is not None and report.ok and not self._values.away((remote.name, key, entity["id"])),
        )

    def _checked(self, agent: str, driver: str, config: Mapping[str, Any]) -> dict[str, Any]:
        """The config in full, so that what means the same is the same. Raises ``ConfigError``."""
        if agent not in self._remotes:
            known = ", ".join(sorted(name for name in list(self._remotes) if name)) or "none"
            raise ConfigError(f"there is no agent {agent!r} (paired are: {known}); pair it with: flowork agent pair")
        try:
            kind: type[Driver[Any]] = find(driver)
            decoded = decode_config(kind.Config, config)
        except DriverError as exc:
            raise ConfigError(exc.message) from None
        whole: dict[str, Any] = plain(msgspec.to_builtins(decoded))
        return whole

    # --- the same on the fleet's thread -----------------------------------------------------------

    def _watch(
        self, agent: str, name: str, wanted: Wanted, on_events: OnEvents, on_status: OnStatus, cursor: Any
    ) -> None:
        remote = self._remotes.get(agent)
        if remote is None:
            on_status(False, f"the agent {agent} was revoked")
            return
        for other in self._remotes.values():
            if other is not remote and name in other.wanted:
                del other.wanted[name]
        delivery = remote.deliveries.get(name)
        if delivery is None:

            def send(seq: int) -> None:
                if remote.link is not None:
                    remote.link.ack(name, seq)

            delivery = remote.deliveries[name] = Delivery(name, self.post, send)
        delivery.attach(on_events, on_status, cursor)
        if remote.hello is not None and remote.link is not None:
            delivery.begin(remote.hello.outbox)
        remote.wanted[name] = wanted
        remote.tell()
        delivery.offer(time.monotonic())
        self._soon()

    def _unwatch(self, agent: str, name: str, wanted: Wanted) -> None:
        remote = self._remotes.get(agent)
        if remote is None or remote.wanted.get(name) is not wanted:
            return
        remote.deliveries[name].detach()
        if not self._frozen:
            del remote.wanted[name]
            self._soon()

    def _call(self, agent: str, call: Call) -> None:
        remote = self._remotes.get(agent)
        if remote is None:
            call.pending.complete(error=NodeError(f"the agent {agent} was revoked", retryable=False))
            return
        try:
            remote.call(call)
        except ChannelClosed as exc:
            self._drop(remote.link, str(exc))

    def _soon(self) -> None:
        if not self._configure_at:
            self._configure_at = time.monotonic() + SETTLE

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._turn(self._until_next())
            except Exception:
                logger.exception("the fleet stumbled, and goes on")
                time.sleep(STUMBLED)
        self._last_words()

    def _until_next(self) -> float | None:
        now = time.monotonic()
        due = [at for at in (max(self._configure_at, self._held_until), self._news.due) if at]
        due += [at for at, _ in self._later]
        for link in list(self._links):
            try:
                due.append(link.tick(now))
            except ChannelClosed as exc:
                self._drop(link, str(exc))
        for remote in self._remotes.values():
            if (at := remote.expire(now)) is not None:
                due.append(at)
            due += [delivery.retry_at for delivery in remote.deliveries.values() if delivery.retry_at]
        return max(0.0, min(due) - now) if due else None

    def _turn(self, wait: float | None) -> None:
        for key, events in self._selector.select(wait):
            if key.fileobj == self._bell_read:
                with suppress(BlockingIOError):
                    os.read(self._bell_read, 65536)
            elif key.fileobj is self._listener:
                self._accept_local()
            else:
                self._attend(key.data, events)
        for _ in range(len(self._calls)):
            call = self._calls.popleft()
            try:
                call()
            except Exception:
                logger.exception("the fleet could not do what it was asked")
        now = time.monotonic()
        for entry in [entry for entry in self._later if now >= entry[0]]:
            self._later.remove(entry)
            entry[1]()
        self._offer(now)
        if self._configure_at and now >= self._configure_at and now >= self._held_until:
            self._configure_at = 0.0
            self._configure()
        if self._held_until and now >= self._held_until:
            self._held_until = 0.0
        self._news.flush(now)
        self._flush()

    def _offer(self, now: float) -> None:
        for remote in self._remotes.values():
            for delivery in remote.deliveries.values():
                if delivery.retry_at and now >= delivery.retry_at:
                    delivery.retry_at = 0.0
                    delivery.offer(now)

    def _configure(self) -> None:
        if self._frozen:
            return
        for remote in self._remotes.values():
            try:
                remote.configure(self._dead_man)
            except ChannelClosed as exc:
                self._drop(remote.link, str(exc))

    def _flush(self) -> None:
        for link in list(self._links):
            try:
                link.flush()
                if self._selector.get_key(link.channel).events != link.channel.wants:
                    self._selector.modify(link.channel, link.channel.wants, link)
            except ChannelClosed as exc:
                self._drop(link, str(exc))

    def _last_words(self) -> None:
        """Acknowledgements of what the engine has just committed."""
        deadline = time.monotonic() + LAST_WORDS
        while self._calls:
            self._calls.popleft()()
        self._flush()
        while any(link.channel.backlog for link in self._links) and time.monotonic() < deadline:
            self._turn(0.05)
        for link in list(self._links):
            self._drop(link, "the engine stops")
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            (self._data / SOCKET).unlink(missing_ok=True)

    # --- connections ----------------------------------------------------------------------------

    def _accept_local(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        self._add(Link(Channel(connection), "", "this machine", self._wall, self._blobs))

    def _welcome_visitor(self, visitor: Visitor) -> None:
        """A machine has shown a certificate that is known (called from the door's threads)."""
        link = Link(Channel(visitor.connection), visitor.identity, visitor.address, self._wall, self._blobs)
        self.post(lambda: self._add(link))

    def _add(self, link: Link) -> None:
        if self._stopping:
            link.channel.close()
            return
        self._links.add(link)
        self._selector.register(link.channel, selectors.EVENT_READ, link)
        self._attend(link, selectors.EVENT_READ)  # TLS may have read ahead

    def _drop(self, link: Link | None, why: str) -> None:
        if link is None or link not in self._links:
            return
        self._links.discard(link)
        self._selector.unregister(link.channel)
        link.channel.close()
        remote = link.remote
        if remote is not None and remote.link is link:
            logger.info("%s is gone: %s", remote.title, why)
            remote.gone(why, self._wall())
            self._news.agent(remote.state())
        elif remote is None:
            logger.info("a connection from %s ended: %s", link.address, why)

    def _attend(self, link: Link, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                link.channel.flush()
            for data in link.channel.receive():
                link.heard_at = time.monotonic()
                self._take(link, decode(data))
        except ChannelClosed as exc:
            self._drop(link, str(exc))
        except Exception:
            logger.exception("what %s sent could not be taken", link.address)
            self._drop(link, "it sent what could not be taken")

    def _take(self, link: Link, message: Any) -> None:
        if isinstance(message, messages.Hello):
            self._greeted(link, message)
        elif isinstance(message, messages.Pong):
            link.pong(message)
        elif link.remote is None:
            raise ChannelClosed("it spoke before it was welcome")
        elif isinstance(message, messages.Events):
            self._events(link, link.remote, message)
        elif isinstance(message, messages.Report):
            link.remote.report = message
            self._learn(link, link.remote.name, message)
            link.remote.tell()
            self._news.agent(link.remote.state())
        elif isinstance(message, messages.Done):
            link.remote.done(message)
        else:
            link.blob(message)

    def _learn(self, link: Link, agent: str, report: messages.Report) -> None:
        """What an agent's entities said before we came up."""
        ahead = link.best.ahead if link.identity else 0.0
        for driver in report.drivers:
            key = source_key(driver.driver, driver.config)
            for source, (value, kind, at) in driver.values.items():
                self._values.note((agent, key, source), value, kind, at - ahead)

    def _events(self, link: Link, remote: Remote, message: messages.Events) -> None:
        delivery, wanted = remote.deliveries.get(message.watch), remote.wanted.get(message.watch)
        if delivery is None:
            return  # not wanted any more, or not yet: the agent keeps it
        if delivery.pending + len(message.rows) > MOST_PENDING:
            raise ChannelClosed("it sent more than it may before it is acknowledged")
        for row in message.rows:
            if not delivery.is_new(row.seq):
                continue
            body = messages.decode_body(row.body)
            when = link.time_of(row)
            event = DeviceEvent(
                agent=remote.name,
                driver=wanted.driver if wanted else "",
                source=body.source,
                kind=body.kind,
                value=body.value,
                time=when,
                attrs=body.attrs,
                id=f"{link.hello.outbox if link.hello else ''}:{row.seq}",
                seq=row.seq,
                cursor=[link.hello.outbox if link.hello else "", row.seq],
                ack=delivery.ack_for(row.seq),
            )
            delivery.take(event)
            if wanted is None:
                continue
            key = (remote.name, wanted.key, body.source)
            news = body.kind in messages.NO_VALUES
            if news:
                self._values.presence(key, body.kind)
            if news or self._values.note(key, body.value, body.kind, when):
                self._news.value(remote.name, wanted.driver, wanted.config, event)
        delivery.offer(time.monotonic())

    # --- who may come in --------------------------------------------------------------------------

    def _greeted(self, link: Link, hello: messages.Hello) -> None:
        version = messages.common_version(hello.versions)
        remote = self._remote_of(link)
        if version is None:
            ours = ", ".join(map(str, messages.VERSIONS))
            theirs = ", ".join(map(str, hello.versions[:10]))
            text = f"the agent speaks protocol {theirs}, this appliance {ours}: bring both to the same release"
            self._refuse(link, "version", text)
        elif remote is None:
            self._refuse(link, "unknown", "this agent is not paired with this appliance (any more); pair it again")
        elif self._moved(remote, hello):
            text = (
                f"the identity of agent {remote.name!r} was made on other hardware: this looks like a copy of its SD "
                f"card. Pair this machine under a name of its own, or, if the card has moved for good, revoke "
                f"{remote.name!r} and pair it again"
            )
            self._refuse(link, "moved", text)
        elif remote.link is not None and remote.link.hello is not None:
            self._challenge(link, remote, remote.link, hello, version)
        else:
            self._let_in(link, remote, hello, version)

    def _remote_of(self, link: Link) -> Remote | None:
        if not link.identity:
            return self._remotes[""]
        return next((r for r in self._remotes.values() if r.paired and r.paired.id == link.identity), None)

    def _moved(self, remote: Remote, hello: messages.Hello) -> bool:
        known = remote.paired.machine if remote.paired else ""
        return bool(known and hello.machine and known != hello.machine)

    def _challenge(self, link: Link, remote: Remote, old: Link, hello: messages.Hello, version: int) -> None:
        """Two connections with one identity: if the older one is alive, there are two agents with it."""
        if old.hello is not None and old.hello.instance == hello.instance:
            self._drop(old, "it has connected anew")
            self._let_in(link, remote, hello, version)
            return
        answered = [False]

        def alive() -> None:
            answered[0] = True
            text = (
                f"another machine ({old.address}) is connected as agent {remote.name!r} now: two agents have "
                f"one identity, as after copying an SD card. Pair this machine under a name of its own"
            )
            if link in self._links:
                self._refuse(link, "clone", text if link.identity else "another agent of this machine is connected")

        def waited() -> None:
            if not answered[0] and link in self._links:
                self._drop(old, "it does not answer any more")
                self._let_in(link, remote, hello, version)

        old.on_pong.append(alive)
        try:
            old.ping()
        except ChannelClosed as exc:
            self._drop(old, str(exc))
            self._let_in(link, remote, hello, version)
            return
        self._later.append((time.monotonic() + PROOF, waited))

    def _refuse(self, link: Link, why: str, text: str) -> None:
        remote = self._remote_of(link)
        if remote is not None and remote.link is None:
            remote.text, remote.since = f"refused: {text}", self._wall()
            self._news.agent(remote.state())
        logger.warning("an agent from %s was refused: %s", link.address, text)
        with suppress(ChannelClosed):
            link.send(messages.Refused(id=why, message=text))
        self._drop(link, text)

    def _let_in(self, link: Link, remote: Remote, hello: messages.Hello, version: int) -> None:
        link.hello, link.remote = hello, remote
        try:
            link.ping()  # ahead of the welcome, so that clocks are compared before the first event
            link.send(messages.Welcome(version=version, name=remote.name, heartbeat=link.heartbeat))
            remote.connected(link, hello, self._wall())
        except ChannelClosed as exc:
            self._drop(link, str(exc))
            return
        logger.info("%s is connected from %s", remote.title, link.address)
        self._news.agent(remote.state())
        self._soon()

    # --- pairing and its end ------------------------------------------------------------------------

    def _paired(self, agent: Paired) -> None:
        """A pairing was completed (called from the door's threads)."""

        remote = self._remotes[agent.name] = Remote(agent.name, agent, self._wall())
        self.post(lambda: self._news.agent(remote.state()))

    def revoke(self, name: str) -> None:
        """Take an agent's access away, at once. Raises ``ConfigError``."""
        self._book.remove(name)
        self.door.changed()

        def drop() -> None:
            remote = self._remotes.pop(name, None)
            if remote is None:
                return
            self._drop(remote.link, "it was revoked")
            remote.text = "it was revoked"
            for delivery in remote.deliveries.values():
                delivery.say(False, f"the agent {name} was revoked")
            for call in remote.calls.values():
                call.pending.complete(error=NodeError(f"the agent {name} was revoked", retryable=False))
            self._values.forget(name)
            self._news.gone(name)

        self.post(drop)


def source_key(driver: str, config: Mapping[str, Any]) -> str:
    """What last values are kept under."""
    return f"{driver} {msgspec.json.encode(config, order='deterministic').decode()}"


def _listen(data: Path) -> socket.socket:
    """The socket of this machine's agent. The caller holds the kernel's lock, so an old one is dead."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(FileNotFoundError):
            (data / SOCKET).unlink()
        link.bind(f"/proc/self/fd/{folder}/{SOCKET}")
        (data / SOCKET).chmod(0o600)
        link.listen(8)
        link.setblocking(False)
    except BaseException:
        link.close()
        raise
    finally:
        os.close(folder)
    return link
