"""Pairing with another engine: what each says of itself, and what is kept of the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress

from appliance.contracts import ConfigError, PeerAway, PeerRoles, PeerState
from appliance.fleet.peers import outgoing
from appliance.fleet.peers.book import Known, check_id
from appliance.fleet.peers.circle import Circle
from appliance.fleet.peers.gate import Agreement, Introduction
from appliance.fleet.peers.remote import Remote, join, split
from edge_agent.protocol import certificates, pairing

logger = logging.getLogger(__name__)

#: Seconds that a join without an address waits for engines to be found.
PATIENCE = 4.0


class Joining:
    """``panel`` gives the port of this engine's panel; ``begun(remote, before)`` is told of who was paired."""

    def __init__(
        self,
        circle: Circle,
        lines: outgoing.Lines,
        panel: Callable[[], int],
        begun: Callable[[Remote, Remote | None], None],
    ) -> None:
        self._circle = circle
        self._lines = lines
        self._panel = panel
        self._begun = begun
        #: The engine stops: nothing is waited for any more.
        self.over = False

    def introduction(self) -> Introduction:
        """What this engine says of itself."""
        about = self._circle.about
        return Introduction(
            engine=about.engine,
            certificate=self._circle.certificate,
            name=about.name,
            machine=about.machine,
            software=about.software,
            port=about.port,
            panel=self._panel(),
        )

    def join(self, code: str, address: str, agreement: Agreement) -> PeerState:
        """Pair with the engine that shows the code. Blocks. Raises ``ConfigError``, ``PeerAway``, ``OSError``."""
        tried: set[str] = set()
        why = "no engine was found that shows this code; name its address"
        until = time.monotonic() + (0.0 if address else PATIENCE)
        while True:
            for each in [address] if address else self._all_addresses():
                if each in tried:
                    continue
                tried.add(each)
                try:
                    theirs, reached = outgoing.join(self._lines, *split(each), code, self.introduction())
                except pairing.WrongCode:
                    raise ConfigError(f"{each}: the code is not right; make a new one if in doubt") from None
                except (OSError, pairing.PairingError) as exc:
                    why = f"{each}: {(getattr(exc, 'strerror', None) or str(exc)).lower()}"
                    continue
                if refusal := self.joined(theirs, agreement, reached):
                    raise ConfigError(refusal)
                return self._circle.state(self._circle.remotes[theirs.engine])
            if time.monotonic() >= until or self.over:
                raise PeerAway(why)
            time.sleep(0.1)

    def _all_addresses(self) -> list[str]:
        about, found = self._circle.about, self._circle.found
        seen = [each for engine in sorted(found.engines()) for each in found.addresses(engine)]
        listed = []
        for each in about.listed:
            with suppress(ValueError):
                listed.append(join(*split(each)))
        return [*seen, *listed]

    def joined(self, theirs: Introduction, agreement: Agreement, address: str) -> str:
        """An engine that knew the code, or whose code we knew: keep it. Why not, or nothing. Raises ``OSError``."""
        about = self._circle.about
        if theirs.engine == about.engine:
            return "both engines have one identity: one is a copy of the other; run `flowork peer new-identity` there"
        known = Known(
            id=check_id(theirs.engine),
            name="",
            fingerprint=certificates.fingerprint(theirs.certificate),
            certificate=theirs.certificate.decode(),
            calls_itself=theirs.name[:60],
            machine=theirs.machine[:200],
            at=about.wall(),
            version=theirs.software[:40],
            panel=theirs.panel,
            addresses=[join(address, theirs.port)] if theirs.port else [],
            roles=agreement.roles,
        )
        before, refusal = self._circle.admit(known, agreement.name)
        if refusal:
            return refusal
        detail = {"name": known.name, "fingerprint": known.fingerprint, "address": address, **told(known.roles)}
        about.audit("peer.paired", known.id, detail)
        logger.info("paired with %s (%s at %s) as %s", theirs.name, known.id, address, known.name)
        self._begun(self._circle.remotes[known.id], before)
        return ""


def told(roles: PeerRoles) -> dict[str, list[str]]:
    """Roles for the audit log."""
    return {"rights": sorted(roles.rights), "workspaces": sorted(roles.workspaces)}
