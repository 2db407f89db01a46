"""What connected agents tell: events on their way to triggers, and how their drivers stand. On the fleet's thread."""

from __future__ import annotations

import time

from appliance.contracts import DeviceEvent
from appliance.fleet.link import Link
from appliance.fleet.live import LiveNews
from appliance.fleet.remote import Remote, source_key
from appliance.fleet.values import Values
from edge_agent.protocol import messages
from edge_agent.protocol.channel import ChannelClosed

#: Events of one watch that may have come and not be acknowledged; an agent keeps to ``WINDOW``.
MOST_PENDING = 4 * messages.WINDOW


class Intake:
    """Notes the newest of each source as it goes by."""

    def __init__(self, values: Values, news: LiveNews) -> None:
        self._values = values
        self._news = news

    def report(self, link: Link, remote: Remote, report: messages.Report) -> None:
        """How the drivers stand, and what their entities said before we came up."""
        remote.report = report
        ahead = link.best.ahead if link.identity else 0.0
        for driver in report.drivers:
            key = source_key(driver.driver, driver.config)
            for source, (value, kind, at) in driver.values.items():
                self._values.note((remote.name, key, source), value, kind, at - ahead)
        remote.tell()

    def events(self, link: Link, remote: Remote, message: messages.Events) -> None:
        """Hand over what is new. Raises ``ChannelClosed`` for more than may come at once."""
        delivery, wanted = remote.deliveries.get(message.watch), remote.wanted.get(message.watch)
        if delivery is None:
            return  # not wanted any more, or not yet: the agent keeps it
        if delivery.pending + len(message.rows) > MOST_PENDING:
            raise ChannelClosed("it sent more than it may before it is acknowledged")
        outbox = link.hello.outbox if link.hello else ""
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
                id=f"{outbox}:{row.seq}",
                seq=row.seq,
                cursor=[outbox, row.seq],
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
