"""The fleet: every edge agent's connection on one thread, and what flows see of it as ``ctx.devices``.

An agent's events go to the trigger that asked for them and are acknowledged once their runs are on disk. What an agent
is to do follows from who watches; it is told of changes within a tenth of a second, and never while the engine is still
attaching its triggers or has begun to stop, for then some only seem to be gone.
"""

from __future__ import annotations

import itertools
import logging
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
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
from appliance.fleet.book import Book, Paired, unknown
from appliance.fleet.check import whole
from appliance.fleet.delivery import Delivery, OnEvents, OnStatus
from appliance.fleet.door import Door, Visitor
from appliance.fleet.intake import Intake
from appliance.fleet.link import Link, decode
from appliance.fleet.live import LiveNews
from appliance.fleet.local import SOCKET, listen
from appliance.fleet.reception import Reception
from appliance.fleet.remote import GRACE, Call, Remote, Wanted, plain, source_key
from appliance.fleet.switchboard import Switchboard
from appliance.fleet.updates import Release, Updates
from appliance.fleet.values import Values
from edge_agent.protocol import messages
from edge_agent.protocol.channel import Channel, ChannelClosed
from edge_agent.protocol.package import code_root

__all__ = ["SOCKET", "Fleet"]

logger = logging.getLogger(__name__)

#: Seconds that a change of what is wanted waits for more.
SETTLE = 0.1
#: Seconds after which agents are told what is wanted even if some trigger still hangs in its attach.
ATTACHING = 15.0


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
        announce: Callable[[int], None] = lambda port: None,
        release: Release | None = None,
        automatic_updates: bool = False,
        owned: Callable[[], bool] = lambda: False,
        tell: Callable[[dict[str, Any]], None] = lambda item: None,
    ) -> None:
        """``port`` 0: no agents from other machines. ``announce`` is told the port that is open, or 0. ``owned``:
        whether the engine has an owner. ``release``: what agents are updated to, the installed one if nothing is said.
        """
        self._wall = wall
        self._dead_man = dead_man
        self._book = Book(data)
        self._data = data
        self._blobs = blobs
        self._board = Switchboard(
            "fleet", self._link, self._take, self._ended, self._turned, self._due, partial(listen, data)
        )
        self._values = Values()
        self._news = LiveNews(tell)
        self.door = Door(data, self._book, engine, port, announce, owned, self._visited, self._paired)
        self._intake = Intake(self._values, self._news)
        self._updates = Updates(release or Release(data, code_root()), automatic_updates, self.post, self._changed)
        self._remotes: dict[str, Remote] = {}
        self._reception = Reception(
            self._remotes, wall, self._board.is_open, self._board.drop, self._board.later, self._let_in, self._changed
        )
        self._numbers = itertools.count(1)
        self._configure_at = 0.0
        self._held_until = 0.0
        self._frozen = False

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen for this machine's agent, and for others if any are paired."""
        now = self._wall()
        self._remotes[""] = Remote("", None, now)
        for paired in self._book.all():
            self._remotes[paired.name] = Remote(paired.name, paired, now)
        self._held_until = time.monotonic() + ATTACHING
        self._board.start()
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
        self._board.stop()
        (self._data / SOCKET).unlink(missing_ok=True)
        self._updates.stop()

    def post(self, call: Callable[[], None]) -> None:
        """Do something on the fleet's thread. Safe from any."""
        self._board.post(call)

    def _visited(self, visitor: Visitor) -> None:
        """A machine has shown a certificate that is known (called from the door's threads)."""
        self.post(lambda: self._board.connect(visitor.connection, visitor.identity, visitor.address))

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
        return [self._state(remote) for remote in sorted(remotes, key=lambda remote: remote.name)]

    def entities(self, agent: str | None = None) -> list[DeviceState]:
        """As the contract says."""
        found = []
        remotes = [remote for remote in list(self._remotes.values()) if agent is None or remote.name == agent]
        for remote in sorted(remotes, key=lambda remote: remote.name):
            found += remote.entities(self._values)
        return found

    def look(self, agent: str, driver: str, config: Mapping[str, Any], seconds: float) -> Pending:
        """Run a driver for so long and see what there is: ``{"ok", "text", "devices"}``. Raises ``ConfigError``."""
        checked = self._checked(agent, driver, config)
        key, pending, told = source_key(driver, checked), Pending(), [(False, "it has not been heard of")]

        def ignore(events: list[DeviceEvent]) -> None:
            for event in events:
                event.ack()

        stop = self.watch(agent, driver, checked, "", ignore, lambda ok, text: told.append((bool(ok), text)))

        def done() -> None:
            states = [each for each in self.entities(agent) if source_key(each.driver, each.config) == key]
            stop()
            pending.complete({"ok": told[-1][0], "text": told[-1][1], "devices": msgspec.to_builtins(states)})

        self.post(lambda: self._board.later(seconds, done))
        return pending

    def history(self, agent: str, driver: str, config: Mapping[str, Any], source: str) -> list[tuple[float, float]]:
        """As the contract says."""
        return self._values.history((agent, source_key(driver, self._checked(agent, driver, config)), source))

    def _checked(self, agent: str, driver: str, config: Mapping[str, Any]) -> dict[str, Any]:
        """The config in full. Raises ``ConfigError``."""
        if agent not in self._remotes:
            raise ConfigError(unknown(agent, list(self._remotes)))
        return whole(driver, config)

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
            self._board.drop(remote.link, str(exc))

    def _soon(self) -> None:
        if not self._configure_at:
            self._configure_at = time.monotonic() + SETTLE

    # --- by time, on the fleet's thread ---------------------------------------------------------

    def _due(self, now: float) -> list[float]:
        due = [at for at in (max(self._configure_at, self._held_until), self._news.due) if at]
        for remote in self._remotes.values():
            if (at := remote.expire(now)) is not None:
                due.append(at)
            due += [delivery.retry_at for delivery in remote.deliveries.values() if delivery.retry_at]
        return due

    def _turned(self, now: float) -> None:
        self._offer(now)
        if self._configure_at and now >= self._configure_at and now >= self._held_until:
            self._configure_at = 0.0
            self._configure()
        if self._held_until and now >= self._held_until:
            self._held_until = 0.0
        self._news.flush(now)

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
                self._board.drop(remote.link, str(exc))

    # --- connections, on the fleet's thread -----------------------------------------------------

    def _ended(self, link: Link, why: str) -> None:
        remote = link.remote
        if remote is not None and remote.link is link:
            logger.info("%s is gone: %s", remote.title, why)
            remote.gone(why, self._wall())
            self._changed(remote)
        elif remote is None:
            logger.info("a connection from %s ended: %s", link.address, why)

    def _link(self, connection: socket.socket, identity: str, address: str) -> Link:
        return Link(Channel(connection), identity, address, self._wall, self._blobs)

    def _take(self, link: Link, data: bytes) -> None:
        remote, message = link.remote, decode(data)
        if isinstance(message, messages.Hello):
            self._reception.greeted(link, message)
        elif isinstance(message, messages.Pong):
            link.pong(message)
        elif remote is None:
            raise ChannelClosed("it spoke before it was welcome")
        elif isinstance(message, messages.Events):
            self._intake.events(link, remote, message)
        elif isinstance(message, messages.Report):
            self._intake.report(link, remote, message)
            self._updates.heard(remote)
            self._changed(remote)
        elif isinstance(message, messages.Done):
            remote.done(message)
        elif isinstance(message, messages.Want):
            self._updates.want(remote, link, message)
        else:
            link.blob(message)

    def _let_in(self, remote: Remote) -> None:
        """An agent was welcomed."""
        self._changed(remote)
        self._soon()

    def _changed(self, remote: Remote) -> None:
        self._news.agent(self._state(remote))

    def _state(self, remote: Remote) -> AgentState:
        return remote.state(self._updates.newer(remote))

    # --- pairing, its end, and updates ------------------------------------------------------------------------

    def update(self, name: str) -> Pending:
        """Update an agent to this engine's release; completes with the version once that is offered.

        Raises ``ConfigError``, ``NotUpdated``.
        """
        remote = self._remotes.get(name)
        if remote is None:
            raise ConfigError(f"there is no agent {name!r}")
        return self._updates.begin(remote)

    def _paired(self, agent: Paired) -> None:
        """A pairing was completed (called from the door's threads)."""

        remote = self._remotes[agent.name] = Remote(agent.name, agent, self._wall())
        self.post(lambda: self._changed(remote))

    def revoke(self, name: str) -> None:
        """Take an agent's access away, at once. Raises ``ConfigError``."""
        self._book.remove(name)
        self.door.changed()

        def drop() -> None:
            remote = self._remotes.pop(name, None)
            if remote is None:
                return
            self._board.drop(remote.link, "it was revoked")
            remote.text = "it was revoked"
            for delivery in remote.deliveries.values():
                delivery.say(False, f"the agent {name} was revoked")
            for call in remote.calls.values():
                call.pending.complete(error=NodeError(f"the agent {name} was revoked", retryable=False))
            self._values.forget(name)
            self._news.gone(name)

        self.post(drop)
