"""A few connections that threads borrow, each for one thing that may be done twice."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg

from appliance.store.postgres.connecting import IN_USE, Connection, connect, explain, is_lost

T = TypeVar("T")


class Pool:
    """Connections are made when they are needed. Safe from any thread, and in a child after ``fork``."""

    def __init__(self, url: str, room: int = 4, *, sync: bool = True, name: str = IN_USE) -> None:
        self._url = url
        self._sync = sync
        self._name = name
        self._room_for = room
        self._inherited: list[Any] = []
        self._renew()

    def _renew(self) -> None:
        self._pid = os.getpid()
        self._room = threading.BoundedSemaphore(self._room_for)
        self._idle: list[Connection] = []

    def run(self, work: Callable[[Connection], T]) -> T:
        """What ``work``, which may be done twice, finds. Raises ``StoreError``."""
        if self._pid != os.getpid():
            self._inherited += self._idle  # neither used nor closed: the server would end the parent's sessions
            self._renew()
        with self._room:
            try:
                return self._run(work)
            except psycopg.Error as exc:
                raise explain(exc, self._url) from exc

    def _run(self, work: Callable[[Connection], T]) -> T:
        while True:
            try:
                connection, fresh = self._idle.pop(), False
            except IndexError:
                connection, fresh = connect(self._url, name=self._name, sync=self._sync), True
            try:
                found = work(connection)
            except psycopg.Error:
                if not is_lost(connection):
                    self._idle.append(connection)
                    raise
                connection.close()
                # Of those that lay idle each may have been cut off since.
                if fresh:
                    raise
                continue
            except BaseException:
                connection.close()
                raise
            self._idle.append(connection)
            return found

    def close(self) -> None:
        """Close what is not in use; twice is fine, and a later read opens again."""
        while self._idle and self._pid == os.getpid():
            self._idle.pop().close()
