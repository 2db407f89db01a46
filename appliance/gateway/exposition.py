"""The engine in numbers, in Prometheus' text format. The only importer of prometheus_client, on first use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from appliance.gateway.services import Gateway

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

#: Text format 0.0.4, which every Prometheus reads.
MEDIA = "text/plain; version=0.0.4; charset=utf-8"
_GAUGES = (
    ("runs", "flowork_runs_under_way", "Runs under way"),
    ("waiting", "flowork_runs_waiting", "Runs that wait for a time, an event or a person"),
    ("queue", "flowork_queue", "Runs that want a turn now"),
    ("queue_bound", "flowork_queue_bound", "Runs that may want a turn before events are refused"),
    ("timers", "flowork_timers", "Moments that something waits for"),
    ("free_bytes", "flowork_disk_free_bytes", "Room on the data folder's disk"),
    ("uptime", "flowork_kernel_uptime_seconds", "Seconds since the kernel has started"),
)


def exposition(gateway: Gateway) -> bytes:
    """All metrics as text."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(gateway))
    return bytes(generate_latest(registry))


class _Collector:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        status = self._gateway.kernel_status()
        yield GaugeMetricFamily("flowork_kernel_up", "Whether the kernel answers", value=float(status is not None))
        if status is not None:
            for key, name, text in _GAUGES:
                yield GaugeMetricFamily(name, text, value=float(status[key]))
            ended = CounterMetricFamily("flowork_runs_ended", "Runs that have ended since its start", labels=["state"])
            for state, count in sorted(status["ended"].items()):
                ended.add_metric([state], count)
            yield ended
            yield CounterMetricFamily("flowork_commits", "Transactions of the journal", value=status["commits"])
            yield CounterMetricFamily("flowork_lost_history", "Runs without history", value=status["lost_history"])
            yield from self._triggers(status)
        yield from self._own()

    def _triggers(self, status: dict[str, Any]) -> Iterator[Metric]:
        from prometheus_client.metrics_core import GaugeMetricFamily

        family = GaugeMetricFamily("flowork_triggers", "Triggers of live versions", labels=["ok"])
        for ok in (True, False):
            family.add_metric([str(ok).lower()], sum(trigger["ok"] == ok for trigger in status["triggers"]))
        yield family

    def _own(self) -> Iterator[Metric]:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        answers = CounterMetricFamily("flowork_http_answers", "What the gateway answered", labels=["noun", "status"])
        for (noun, status), count in sorted(self._gateway.traffic.counts().items()):
            answers.add_metric([noun, status], count)
        yield answers
        yield GaugeMetricFamily("flowork_live_sockets", "Panels that watch live", value=self._gateway.sockets())
        letters = self._gateway.history_view()["open_letters"]
        yield GaugeMetricFamily("flowork_dead_letters", "Open dead letters", value=letters)
