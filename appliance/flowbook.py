"""Saving, deploying and importing flows: the one place for it, shared by the gateway and the command line.

Around ``store.flows``, which only keeps, a :class:`FlowBook` does what every such change needs: it checks the flow
against this machine, gives webhooks without a path a random one (and keeps the one they had), refuses a path that
another live flow has, writes the audit entry in the same transaction, tells the kernel, and renews the good copy.

Whether the caller may do it is the caller's to ask (``security.roles.require``). Use one for each process::

    registry = Registry().scan(data / "packages")
    book = FlowBook(store, registry, AuditLog(store.audit, data, scrubber=scrubber), KernelClient(data))
    saved = book.save(body, by=identity, flow_id="greenhouse", base=4, message="Warn earlier", deploy=True)

Raises :class:`InvalidFlow` with all problems in ``detail["problems"]``, and what the store raises (``Conflict``,
``NotFound``, ``ConfigError``, ``StoreError``).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from appliance.ai.gateway.names import KnownModels, Upstreams
from appliance.claims import DeviceClaims
from appliance.contracts import FlowError, Problem, World
from appliance.engine.flow import is_old, modernize
from appliance.engine.needs import needs_of_nodes
from appliance.engine.validate import NodeTraits, schema_notes, traits, validate
from appliance.kernel.client import KernelAway, KernelClient
from appliance.registry import Registry
from appliance.security.audit import AuditEntry, AuditLog
from appliance.security.roles import DEFAULT_WORKSPACE, Identity
from appliance.store.errors import NotFound, StoreCorrupt, StoreError
from appliance.store.metadata import Store
from appliance.store.records import Flow, Version
from appliance.webpaths import Clash, WebPaths
from appliance.world import Machine

logger = logging.getLogger(__name__)

#: Seconds for a kernel to tell what is only worth a note.
_ASIDE = 5.0
NO_OBJECT = Problem("", "a flow is a JSON object with name, nodes and edges")


class InvalidFlow(FlowError):
    """The flow has faults; ``problems`` are all of them, each with its place and its mend."""

    id = "invalid-flow"
    retryable = False

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = f"{problems[0].path}: {problems[0].message}" if problems[0].path else problems[0].message
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"the flow is not valid: {first}{more}", detail={"problems": msgspec.to_builtins(problems)})
        self.problems = tuple(problems)


class Saved(Struct, frozen=True):
    """The flow as it is now, the version that was saved or deployed, and what a person should know.

    ``kernel`` is whether a running kernel has taken the change; without one it will at its start.
    """

    flow: Flow
    version: Version
    notes: tuple[str, ...] = ()
    kernel: bool = False


class Entry(Protocol):
    """Adds an audit entry: action, target, detail."""

    def __call__(self, action: str, target: str, detail: Mapping[str, Any] | None = None) -> None: ...


class FlowBook:
    """Changes flows. Safe from any thread. ``world`` makes what checks may ask."""

    def __init__(
        self,
        store: Store,
        catalog: Registry,
        audit: AuditLog,
        kernel: KernelClient,
        world: Callable[[Callable[[str], bool], Path, KnownModels], World] = Machine,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._audit = audit
        self._kernel = kernel
        self._world = world
        self._webpaths = WebPaths(catalog.triggers)
        self._claims = DeviceClaims(catalog)

    # --- checking ----------------------------------------------------------------------------------

    def problems(self, body: Any, flow_id: str | None = None, workspace: str = DEFAULT_WORKSPACE) -> list[Problem]:
        """All that is wrong with a flow in today's form, on this machine, as the flow ``flow_id``."""

        def exists(name: str) -> bool:
            return name == flow_id or self._workspace_of(name) == workspace

        found = validate(body, self._catalog, self._machine(exists))
        return found or self._taken(body, flow_id)

    def traits(self, body: Any) -> dict[str, NodeTraits]:
        """What each node's config makes of it, by its id, of a flow that may have faults."""
        return traits(body, self._catalog, self._machine(lambda flow: True))

    def _machine(self, exists: Callable[[str], bool]) -> World:
        settings = self._store.settings.load()
        upstreams = Upstreams(self._catalog.providers, settings.model_upstreams)
        defaults = {"language": settings.model_default, "embed": [settings.model_embed] if settings.model_embed else []}
        known = KnownModels(upstreams, defaults, functools.cache(self._elsewhere))
        return self._world(exists, self._kernel.data, known)

    def _elsewhere(self, name: str, kind: str) -> str:
        """The peer that answers for a model which is not on this machine, as far as a running kernel knows."""
        try:
            return str(self._kernel.call("model_elsewhere", _ASIDE, name=name, kind=kind))
        except FlowError:
            return ""

    def notes(self, body: Any) -> tuple[str, ...]:
        """What is no fault of a flow, and yet to be known: answers that models here cannot be held to, and what its
        nodes need and no engine offers now.
        """
        return (*schema_notes(body, self._catalog, self._machine(lambda flow: True)), *self._missing(body))

    def _missing(self, body: Any) -> tuple[str, ...]:
        asked = [[kind, [str(need) for need in needs]] for kind, needs in needs_of_nodes(body)]
        if not asked:
            return ()
        try:
            return tuple(self._kernel.call("placement_missing", _ASIDE, nodes=asked))
        except FlowError:
            return ()

    def _taken(self, body: Mapping[str, Any], flow_id: str | None) -> list[Problem]:
        """What another live flow has already: paths, and devices if both are switched on."""
        live = self._store.flows.live()
        off = {flow.id for flow, _ in live if not flow.enabled}
        devices: Iterator[Problem] = iter(())
        if flow_id not in off:
            others = ((flow.id, version.body) for flow, version in live if flow.id not in {flow_id, *off})
            devices = self._claims.clashes(body, others)
        return [*(clash.problem for clash in self._clashes(body, flow_id)), *devices]

    def _clashes(self, body: Mapping[str, Any], flow_id: str | None) -> Iterator[Clash]:
        live = ((flow.id, version.body) for flow, version in self._store.flows.live() if flow.id != flow_id)
        return self._webpaths.clashes(body, live)

    def _workspace_of(self, flow_id: str) -> str | None:
        try:
            return self._store.flows.get(flow_id).workspace
        except NotFound:
            return None

    def _check(self, body: Any, flow_id: str | None, workspace: str) -> None:
        if problems := self.problems(body, flow_id, workspace):
            raise InvalidFlow(problems)

    # --- changing ----------------------------------------------------------------------------------

    def save(
        self,
        body: Any,
        *,
        by: Identity,
        flow_id: str | None = None,
        workspace: str = DEFAULT_WORKSPACE,
        base: int | None = None,
        message: str = "",
        deploy: bool = False,
        draft: bool = False,
    ) -> Saved:
        """Keep a new version, on top of the version ``base`` or as a new flow; with ``deploy`` make it live.

        A ``draft`` may have faults; it cannot be deployed before they are mended.
        """
        if not isinstance(body, Mapping):
            raise InvalidFlow([NO_OBJECT])
        newest = self._newest(flow_id)
        body = self._webpaths.filled(body, newest.body if newest else None)
        if deploy or not draft:
            self._check(body, flow_id, workspace)
        with self._changing(by, workspace) as entry:
            version = self._store.flows.save(flow_id, workspace, body, by.label, message, base)
            flow = self._store.flows.by_num(version.flow)
            if newest is None or version.number > newest.number:
                entry("flow.save", flow.id, {"version": version.number, "message": message})
            if deploy:
                self._point(flow, version, by, entry)
        return msgspec.structs.replace(self._told(flow.id, version), notes=self.notes(body))

    def _newest(self, flow_id: str | None) -> Version | None:
        try:
            return None if flow_id is None else self._store.flows.numbered(flow_id)
        except NotFound:
            return None

    def import_flow(
        self,
        raw: Any,
        *,
        by: Identity,
        flow_id: str | None = None,
        workspace: str = DEFAULT_WORKSPACE,
        message: str = "imported",
        deploy: bool = False,
    ) -> Saved:
        """Make a new flow of a file in today's or an older form; webhook paths that are taken get new ones."""
        body, notes = readable(raw)
        clashes = list(self._clashes(body, None))
        body = self._webpaths.renewed(body, [clash.index for clash in clashes])
        notes += [f"triggers[{c.index}] has a new path: the one in the file belongs to {c.owner}" for c in clashes]
        saved = self.save(body, by=by, flow_id=flow_id, workspace=workspace, message=message, deploy=deploy)
        return msgspec.structs.replace(saved, notes=(*notes, *saved.notes))

    def deploy(self, flow_id: str, number: int | None, *, by: Identity) -> Saved:
        """Make a version live (the newest without a number); runs under way finish on theirs."""
        flow = self._store.flows.get(flow_id)
        version = self._store.flows.numbered(flow_id, number)
        self._check(version.body, flow_id, flow.workspace)
        with self._changing(by, flow.workspace) as entry:
            self._point(flow, version, by, entry)
        return self._told(flow_id, version)

    def rollback(self, flow_id: str, number: int | None = None, *, by: Identity) -> Saved:
        """Make an older version live again: the one given, or the one that was live before and is older."""
        if number is None:
            number = self.previous(flow_id)
        return self.deploy(flow_id, number, by=by)

    def previous(self, flow_id: str) -> int:
        """The number of the version to roll back to. Raises ``NotFound`` if there is none."""
        flow = self._store.flows.get(flow_id)
        now = flow.live_number if flow.live_number is not None else flow.newest + 1
        for move in self._store.flows.deployments(flow_id, limit=500):
            before = self._store.flows.version(move.before).number if move.before is not None else now
            if before < now:
                return before
        raise NotFound(f"flow {flow_id!r} has no earlier version that was live; name one: `flowork flow versions`")

    def undeploy(self, flow_id: str, *, by: Identity) -> Saved:
        """Make no version live: triggers are detached, runs under way finish."""
        flow = self._store.flows.get(flow_id)
        with self._changing(by, flow.workspace) as entry:
            if flow.live is not None:
                entry("flow.undeploy", flow_id, {"version": flow.live_number})
            self._store.flows.undeploy(flow_id, by.label)
        return self._told(flow_id, self._store.flows.numbered(flow_id))

    def enable(self, flow_id: str, enabled: bool, *, by: Identity) -> Saved:
        """Switch a flow's triggers on or off without undeploying it."""
        flow = self._store.flows.get(flow_id)
        if enabled and not flow.enabled and flow.live is not None:
            others = ((f.id, v.body) for f, v in self._store.flows.live() if f.enabled)
            if problems := list(self._claims.clashes(self._store.flows.version(flow.live).body, others)):
                raise InvalidFlow(problems)
        with self._changing(by, flow.workspace) as entry:
            if flow.enabled != enabled:
                entry("flow.enable" if enabled else "flow.disable", flow_id)
            self._store.flows.enable(flow_id, enabled, by.label)
        return self._told(flow_id, self._store.flows.numbered(flow_id))

    def delete(self, flow_id: str, *, by: Identity) -> None:
        """Delete a flow. Its runs and versions can still be looked at; its state is gone."""
        flow = self._store.flows.get(flow_id)
        with self._changing(by, flow.workspace) as entry:
            self._store.flows.delete(flow_id, by.label)
            entry("flow.delete", flow_id, {"newest": flow.newest})
        self.tell_kernel()
        self._keep_copy()

    def _point(self, flow: Flow, version: Version, by: Identity, entry: Entry) -> None:
        # Asked again inside the transaction: another process may have been quicker to deploy the same path.
        if problems := self._taken(version.body, flow.id):
            raise InvalidFlow(problems)
        if flow.live != version.id:
            entry("flow.deploy", flow.id, {"version": version.number, "before": flow.live_number})
        self._store.flows.deploy(flow.id, version.number, by.label)

    @contextmanager
    def _changing(self, by: Identity, workspace: str) -> Iterator[Entry]:
        """One transaction with its audit entries, which are settled once it is committed."""
        entries: list[AuditEntry] = []

        def entry(action: str, target: str, detail: Mapping[str, Any] | None = None) -> None:
            entries.append(self._audit.add(by.label, action, target, detail, workspace=workspace))

        with self._store.atomically():
            yield entry
        for one in entries:
            self._audit.settle(one)

    # --- afterwards --------------------------------------------------------------------------------

    def _told(self, flow_id: str, version: Version) -> Saved:
        taken = self.tell_kernel()
        self._keep_copy()
        return Saved(self._store.flows.get(flow_id), version, (), taken)

    def tell_kernel(self) -> bool:
        """Have a running kernel read flows, variables and secrets anew; False if none runs.

        Also to be called after a change of variables or secrets.
        """
        try:
            self._kernel.call("reload")
        except KernelAway:
            return False
        return True

    def _keep_copy(self) -> None:
        try:
            self._store.keep_good_copy()
        except StoreCorrupt:
            raise
        except StoreError as exc:  # the change itself is safe; a full disk is said by the health page
            logger.warning("the good copy of flowork.db was not renewed: %s", exc.message)


def readable(raw: Any) -> tuple[dict[str, Any], list[str]]:
    """A flow from a file, in today's form, and notes on what was converted. Raises ``InvalidFlow``."""
    if not isinstance(raw, Mapping):
        raise InvalidFlow([NO_OBJECT])
    if is_old(raw):
        return modernize(raw), ["converted from an older form of flow"]
    return dict(raw), []
