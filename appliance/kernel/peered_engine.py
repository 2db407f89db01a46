"""The engine with its part in the work across engines: steps done elsewhere or for others, events both ways."""

from __future__ import annotations

from collections.abc import Callable

from appliance.engine.plan import FlowPlan
from appliance.kernel.context import Services
from appliance.kernel.engine import Engine
from appliance.kernel.peering.engines import StepEngines
from appliance.kernel.peering.events import PeerEvents
from appliance.kernel.peering.guests import Guests
from appliance.kernel.peering.outbox import Outbox
from appliance.kernel.peering.placement import Placement
from appliance.store.journal import Journal


class PeeredEngine(Engine):
    """Until it has links to peers, every step is done here and no event leaves."""

    placement: Placement
    guests: Guests
    outbox: Outbox

    def __init__(
        self,
        journal: Journal,
        services: Services,
        load_plan: Callable[[int], FlowPlan],
        ring: Callable[[], None],
        **bounds: int,
    ) -> None:
        super().__init__(journal, services, load_plan, ring, **bounds)
        self.placement = Placement(self)
        self.guests = Guests(self)
        self.outbox = Outbox(self)
        self.peer_events = PeerEvents(self)
        services.engines = lambda ctx: StepEngines(services.peers, ctx)
