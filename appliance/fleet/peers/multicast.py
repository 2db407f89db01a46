"""This engine on the local network: DNS-SD over multicast DNS (RFC 6763, RFC 6762) by the zeroconf library.

A program of its own (``python -m appliance.fleet.peers.multicast``), as for agents: what strangers send is read outside
the kernel, which does not carry the library. It does what lines of JSON on its standard input say, and ends with them::

    {"announce": {"name": …, "host": …, "port": …, "facts": {…}} or null, "browse": bool, "wanted": [engine, …]}

and prints lines of JSON: ``{"found": {"key", "facts", "addresses", "port"}}``, ``{"gone": key}``, ``{"moved": true}``
when this machine's addresses have changed, ``{"ready": …}`` when an announcement is out, ``{"error": text}``.

The machine's own host name is left alone: avahi, where it runs, owns that, and two programs that both answer for one
name would be told apart by nobody. An engine announces itself under ``<host>-<id>.local``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from zeroconf import DNSQuestionType, IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

SERVICE = "_flowork._tcp.local."
#: Engines that are told of; the wanted ones are told of whatever else is there.
MOST = 256
#: Names that may wait for their facts to be asked for, and how many are asked for at once.
MOST_WAITING, AT_ONCE = 512, 4
#: Seconds between two names that one worker asks for: who announces as fast as it can has no more of the machine.
PACE = 0.005
#: Milliseconds that an engine has to tell its facts.
PATIENCE = 3000
#: Seconds for which changes of this machine's addresses settle.
SETTLE = 1.0
#: Bytes of memory: whoever floods the network with names ends this program, which is started again, and nothing else.
MEMORY = 400_000_000
#: Seconds until one that went without a goodbye is forgotten by others; how long it is away they know from its link.
TTL = 600
#: Names in the library's cache, beyond which it is emptied.
MOST_CACHED = 20_000
#: rtnetlink(7): messages of changed links and addresses.
_LINK, _IPV4, _IPV6 = 0x1, 0x10, 0x100


class Multicast:
    """Used on one event loop."""

    def __init__(self) -> None:
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._announced: AsyncServiceInfo | None = None
        self._wish: dict[str, Any] = {"announce": None, "browse": False, "wanted": []}
        self._told: dict[str, str] = {}
        self._waiting: dict[str, None] = {}
        self._bell = asyncio.Event()
        self._addresses: list[str] = []

    async def run(self) -> None:
        """Until standard input ends."""
        self._addresses = addresses()
        workers = [asyncio.create_task(self._resolve()) for _ in range(AT_ONCE)]
        workers.append(asyncio.create_task(self._mind_addresses()))
        try:
            async for wish in _lines():
                await self._obey({**self._wish, **wish})
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await self._close()

    # --- what is wished ---------------------------------------------------------------------------

    async def _obey(self, wish: dict[str, Any]) -> None:
        """Announce and browse as the newest line says."""
        again, before, self._wish = wish.pop("again", False), self._wish, wish
        try:
            if wish["announce"] != before["announce"] or (again and wish["announce"]):
                await self._announce(wish["announce"])
            if wish["browse"] != before["browse"] or (again and wish["browse"]):
                await self._browse(wish["browse"])
        except Exception as exc:  # the library has several, and so has the network
            _say({"error": str(exc) or type(exc).__name__})

    async def _open(self) -> AsyncZeroconf:
        if self._zeroconf is None:
            try:
                self._zeroconf = AsyncZeroconf(ip_version=IPVersion.All)
            except OSError:  # no IPv6 here
                self._zeroconf = AsyncZeroconf(ip_version=IPVersion.V4Only)
        return self._zeroconf

    async def _close(self) -> None:
        if self._browser is not None:
            await self._browser.async_cancel()
            self._browser = None
        if self._zeroconf is not None:
            await self._zeroconf.async_unregister_all_services()  # the goodbye
            await self._zeroconf.async_close()
            self._zeroconf = None
        self._announced = None

    async def _announce(self, wanted: dict[str, Any] | None) -> None:
        zeroconf = await self._open()
        if wanted is None or not self._addresses:
            if self._announced is not None:
                await (await zeroconf.async_unregister_service(self._announced))
                self._announced = None
            return
        info = AsyncServiceInfo(
            SERVICE,
            f"{wanted['name']}.{SERVICE}",
            port=wanted["port"],
            properties=wanted["facts"],
            server=f"{wanted['host']}.local.",
            parsed_addresses=self._addresses,
            other_ttl=TTL,
        )
        if self._announced is not None:
            info.name = self._announced.name  # as it may have been renamed, for another had that name
            await (await zeroconf.async_update_service(info))
        else:
            await (await zeroconf.async_register_service(info, allow_name_change=True))
        self._announced = info
        _say({"ready": info.name})

    async def _browse(self, on: bool) -> None:
        zeroconf = await self._open()
        if self._browser is not None:
            await self._browser.async_cancel()
            self._browser = None
        if on:
            # QM: as edge_agent/protocol/discovery.py says.
            self._browser = AsyncServiceBrowser(
                zeroconf.zeroconf, SERVICE, handlers=[self._changed], question_type=DNSQuestionType.QM
            )

    # --- what is found ------------------------------------------------------------------------------

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed:
            self._waiting.pop(name, None)
            if self._told.pop(name, None) is not None:
                _say({"gone": name})
        elif len(self._waiting) < MOST_WAITING and name != (self._announced.name if self._announced else ""):
            self._waiting[name] = None
            self._bell.set()
        if len(zeroconf.cache.cache) > MOST_CACHED:
            sys.exit("the network is flooded with names")  # started again by who started it, with nothing of them

    async def _resolve(self) -> None:
        """Ask for the facts behind names."""
        while True:
            if not self._waiting:
                self._bell.clear()
                await self._bell.wait()
                continue
            name = next(iter(self._waiting))
            del self._waiting[name]
            if self._zeroconf is None:
                continue
            await asyncio.sleep(PACE)
            with suppress(Exception):  # what a stranger sends is no reason to end
                info = AsyncServiceInfo(SERVICE, name)
                if await info.async_request(self._zeroconf.zeroconf, PATIENCE):
                    self._found(name, info)

    def _found(self, name: str, info: AsyncServiceInfo) -> None:
        facts = {key: value or "" for key, value in info.decoded_properties.items()}
        if facts.get("engine") not in self._wish["wanted"] and name not in self._told and len(self._told) >= MOST:
            return
        named = info.parsed_scoped_addresses(IPVersion.All)[:16]
        found = {
            "key": name,
            "facts": facts,
            "addresses": [each for each in named if not each.startswith(("127.", "::1"))],  # that would be ourselves
            "port": info.port,
        }
        text = json.dumps(found, sort_keys=True)
        if self._told.get(name) != text:
            self._told[name] = text
            _say({"found": found})

    # --- this machine's own addresses -----------------------------------------------------------------

    async def _mind_addresses(self) -> None:
        """Announce anew when a cable was plugged in or an address was given; sleeps until the system says so."""
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as news:
            news.bind((0, _LINK | _IPV4 | _IPV6))
            news.setblocking(False)
            while True:
                await asyncio.get_running_loop().sock_recv(news, 65536)
                await asyncio.sleep(SETTLE)
                with suppress(BlockingIOError):
                    while news.recv(65536):
                        pass
                await self._moved()

    async def _moved(self) -> None:
        self._addresses = addresses()
        _say({"moved": True})
        if self._zeroconf is not None:
            with suppress(Exception):
                await self._zeroconf.zeroconf.async_update_interfaces()
        await self._obey({**self._wish, "again": True})


def addresses() -> list[str]:
    """This machine's addresses on its networks; none while its cable is out."""
    import ifaddr

    found = []
    for adapter in ifaddr.get_adapters():
        for each in adapter.ips:
            address = each.ip if isinstance(each.ip, str) else each.ip[0]
            if not address.startswith(("127.", "::1", "fe80")):
                found.append(address)
    return found


async def _lines() -> Any:
    """Lines of standard input."""
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


def _say(news: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(news) + "\n")
    sys.stdout.flush()


def main(arguments: Iterable[str] = ()) -> int:
    """The program."""
    logging.getLogger("zeroconf").setLevel(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with suppress(BrokenPipeError, KeyboardInterrupt):
        asyncio.run(Multicast().run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
