"""Peers: other engines on the network, found or paired, and what may be asked of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Annotated, Any, Literal, Protocol

from msgspec import Meta, Struct

from appliance.contracts.errors import FlowError

#: Where engines listen for each other, if nobody says otherwise.
PEER_PORT = 5011
#: How an engine stands to this one. ``found``: seen on the network, not paired; nothing is exchanged with it.
#: ``connected``, ``away``: paired. ``refused``: paired, but one side does not let the other in; the text says why.
#: ``clone``: two engines have its identity. ``self``: this engine.
PeerStanding = Literal["found", "connected", "away", "refused", "clone", "self"]
#: What a peer can be let do here, besides being known. ``run``: run steps, and what flows of this engine offer, in the
#: workspaces that are named; ``models``: ask models of this machine; ``events``: send events to flows in the named
#: workspaces; ``flows``: copy flows here (they are saved, never deployed) and read those of the named workspaces.
PeerRight = Literal["run", "models", "events", "flows"]


class PeerRoles(Struct, frozen=True, kw_only=True):
    """What one engine lets another do. Nothing, as long as nobody said more."""

    rights: Annotated[
        frozenset[PeerRight],
        Meta(
            description="`run`: run steps here; `models`: ask models of this machine; `events`: send events to flows; "
            "`flows`: read flows and send copies of its own"
        ),
    ] = frozenset()
    workspaces: Annotated[
        frozenset[str],
        Meta(description="Workspaces in which `run`, `events` and `flows` hold; `*`: all"),
    ] = frozenset()

    def may(self, right: PeerRight, workspace: str | None = None) -> bool:
        """Whether a right was given; in one workspace, if one is named."""
        return right in self.rights and (workspace is None or bool({workspace, "*"} & self.workspaces))


class ModelOffer(Struct, frozen=True):
    """A model that an engine has on its own disk; ``context`` is in tokens, 0 if that is not known."""

    name: str
    task: str = ""
    context: int = 0


class PeerOffers(Struct, frozen=True, kw_only=True):
    """What an engine has to offer, as it said last. ``devices`` are ``agent/driver`` names that work (``/gpio`` is on
    that machine itself) and ``agent/driver/entity`` of drivers that run, ``nodes`` the kinds of step that it knows.
    ``load`` is the run queue per core of the last minute, ``memory_free`` and ``memory`` are bytes, ``runs`` its runs
    under way. ``exact``: told over a link; else it is the summary of an announcement, in which lists may be cut, and
    ``devices`` are kinds of driver.
    """

    models: tuple[ModelOffer, ...] = ()
    devices: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    memory: int = 0
    memory_free: int = 0
    cores: int = 0
    load: float = 0.0
    runs: int = 0
    exact: bool = False


class PeerState(Struct, frozen=True, kw_only=True):
    """One engine. ``name`` is what it is called here (unique among the paired ones), ``calls_itself`` its own name.

    ``id`` is its stable id, ``fingerprint`` that of its certificate (SHA-256, hex; of one that is only found: as it
    claims). ``addresses`` are ``host:port``, the one that works first; ``seen`` says how it is known: ``mdns``,
    ``list`` (the setting ``peers``), ``last`` (its last known address), ``link``. ``roles`` is what it may do here,
    ``allows`` what it lets this engine do, ``url`` where its panel is. ``offset`` is how many seconds its clock is
    ahead, ``latency`` one way in seconds; times are Unix seconds. ``hint`` says what a person might do about it.
    ``why`` names the reason of a refusal: ``unknown``, ``revoked``, ``version``, ``clone``, ``moved`` (it comes from
    other hardware), ``moved-here`` (this engine does, it says); empty if there is none.
    """

    id: str
    name: str
    calls_itself: str = ""
    fingerprint: str = ""
    state: PeerStanding
    text: str = ""
    why: str = ""
    hint: str = ""
    since: float = 0.0
    paired: float = 0.0
    addresses: tuple[str, ...] = ()
    address: str = ""
    seen: tuple[str, ...] = ()
    version: str = ""
    url: str = ""
    offset: float = 0.0
    latency: float = 0.0
    roles: PeerRoles = PeerRoles()
    allows: PeerRoles = PeerRoles()
    offers: PeerOffers = PeerOffers()

    @property
    def connected(self) -> bool:
        """Whether it can be asked something at this moment."""
        return self.state == "connected"


class PeerAway(FlowError):
    """A peer cannot be reached. ``sent``: it may have got the request all the same, and may have carried it out."""

    id = "peer-away"

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent


class PeerNotAllowed(FlowError):
    """A peer does not let this engine do that, or the other way round."""

    id = "peer-not-allowed"
    retryable = False


class PeerFailed(FlowError):
    """What the peer itself said went wrong; ``error_id`` is the id that its error had there."""

    id = "peer-failed"

    def __init__(self, message: str, *, error_id: str, retryable: bool = True, detail: Any = None) -> None:
        super().__init__(message, retryable=retryable, detail=detail)
        self.error_id = error_id


class PeerRequest(Protocol):
    """Something that a peer asks. Safe from any thread; the first answer counts, later ones do nothing.

    ``body`` is plain data; blobs that it refers to are in this engine's store already. ``until`` (monotonic) is when
    nobody waits for the answer any more.
    """

    @property
    def peer(self) -> PeerState: ...
    @property
    def body(self) -> Any: ...
    @property
    def until(self) -> float: ...

    def answer(self, value: Any = None) -> None:
        """Answer. Blobs that ``value`` refers to are sent along, unless the peer has them."""

    def error(self, exc: BaseException) -> None:
        """Answer with what went wrong: a ``FlowError`` keeps its id, message, detail and ``retryable``."""

    def item(self, value: Any) -> None:
        """One item ahead of the answer. Raises ``Busy`` while the peer does not take what was sent before."""

    def on_end(self, callback: Callable[[str], None]) -> None:
        """Call back once if nobody waits for the answer any more: ``cancelled``, ``late`` or ``away`` (the link is
        gone: the peer may ask again with the next one). At once if that is so already; never after an answer.
        """


class Peers(Protocol):
    """The engines that this one is paired with. ``peer`` is an id or a name. Methods are safe from any thread;
    callbacks are called on the peers' own thread, must not block and must not raise.
    """

    def states(self) -> list[PeerState]:
        """This engine first, then the paired ones by name, then those that are only found."""

    def request(
        self,
        peer: str,
        method: str,
        body: Any,
        timeout: float,
        on_item: Callable[[Any], None] | None = None,
    ) -> Future[Any]:
        """Ask a peer; plain data in, plain data out. Cancelling the future tells the peer to stop.

        Blobs that ``body`` refers to are sent ahead, those that the peer lacks; the same comes back with the answer.
        Nothing is sent twice: a link that breaks ends the request. Fails with ``PeerAway`` (``sent`` says whether it
        went out), ``PeerNotAllowed``, ``PeerFailed``, ``TimedOut`` after ``timeout`` seconds, ``Busy`` when too much
        is under way, ``ConfigError`` for an unknown peer or a body of more than 3 MB (put it into a blob).
        """

    def serve(
        self, method: str, handler: Callable[[PeerRequest], None], right: PeerRight | None = None
    ) -> Callable[[], None]:
        """Answer a method of peers that have the ``right`` (None: any that is paired); returns the stop.

        What else a right is bound to (workspaces) is for the handler to check: ``request.peer.roles``.
        """

    def on_change(self, callback: Callable[[PeerState], None]) -> Callable[[], None]:
        """Call back when a peer comes, goes, or offers or allows something else; returns the stop."""
