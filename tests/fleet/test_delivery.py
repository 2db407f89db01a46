"""From an agent's connection to a trigger: in order, each once, acknowledged behind the commit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from appliance.contracts import Busy, DeviceEvent, FlowError
from appliance.fleet.delivery import Delivery


class Bench:
    """A delivery, what its trigger took, and what the agent was told."""

    def __init__(self) -> None:
        self.taken: list[DeviceEvent] = []
        self.told: list[int] = []
        self.calls: deque[Callable[[], None]] = deque()
        self.refusal: FlowError | ValueError | None = None
        self.room = 1000
        self.states: list[tuple[bool | None, str]] = []
        self.delivery = Delivery("flow/t", self.calls.append, self.told.append)
        self.attach()

    def attach(self, cursor: Any = None) -> None:
        self.delivery.attach(self.on_events, lambda ok, text: self.states.append((ok, text)), cursor)

    def on_events(self, events: list[DeviceEvent]) -> None:
        if self.refusal is not None:
            raise self.refusal
        if len(events) > self.room:
            raise Busy(retry_after=0.5)
        self.taken += events

    def come(self, *numbers: int) -> None:
        for seq in numbers:
            if self.delivery.is_new(seq):
                self.delivery.take(_event(self.delivery, seq))
        self.delivery.offer(0.0)

    def ack(self, *numbers: int) -> None:
        for seq in numbers:
            next(event for event in self.taken if event.seq == seq).ack()
        while self.calls:
            self.calls.popleft()()

    @property
    def seqs(self) -> list[int]:
        return [event.seq for event in self.taken]


def _event(delivery: Delivery, seq: int) -> DeviceEvent:
    ack = delivery.ack_for(seq)
    return DeviceEvent(
        agent="",
        driver="sim",
        source="s",
        kind="k",
        value=seq,
        time=0.0,
        id=f"o:{seq}",
        seq=seq,
        cursor=["o", seq],
        ack=ack,
    )


def test_acknowledgements_go_out_in_order_however_they_come() -> None:
    bench = Bench()
    bench.delivery.begin("o")
    bench.come(3, 5, 9)
    bench.ack(9)
    assert bench.told == []
    bench.ack(3)
    assert bench.told == [3]
    bench.ack(5)
    assert bench.told == [3, 9]


def test_what_comes_again_after_a_cut_is_not_handed_over_again() -> None:
    bench = Bench()
    bench.delivery.begin("o")
    bench.come(1, 2, 3)
    bench.ack(1)
    bench.delivery.begin("o")
    bench.come(1, 2, 3, 4)
    assert bench.seqs == [1, 2, 3, 4]
    assert bench.told == [1, 1]
    bench.ack(2, 3, 4)
    assert bench.told[-1] == 4


def test_a_new_kernel_begins_behind_the_cursor() -> None:
    bench = Bench()
    bench.attach(["o", 7])
    bench.delivery.begin("o")
    bench.come(6, 7, 8)
    assert bench.seqs == [8]
    assert bench.told == [7, 7]


def test_a_cursor_of_another_outbox_says_nothing() -> None:
    bench = Bench()
    bench.attach(["older", 7])
    bench.delivery.begin("o")
    bench.come(1)
    assert bench.seqs == [1]


def test_a_busy_trigger_is_offered_the_same_again_in_smaller_batches() -> None:
    bench = Bench()
    bench.room = 2
    bench.delivery.begin("o")
    bench.come(*range(1, 9))
    now = 0.0
    while bench.delivery.waiting:
        assert bench.delivery.retry_at > now
        now = bench.delivery.retry_at
        bench.delivery.retry_at = 0.0
        bench.delivery.offer(now)
    assert bench.seqs == list(range(1, 9))
    bench.ack(*range(1, 9))
    assert bench.told[-1] == 8


def test_a_trigger_that_fails_is_tried_again_and_says_so() -> None:
    bench = Bench()
    bench.refusal = ValueError("no disk")
    bench.delivery.begin("o")
    bench.come(1)
    assert bench.states == [(False, "events wait, they could not be taken: no disk")]
    bench.refusal, bench.delivery.retry_at = None, 0.0
    bench.delivery.offer(1.0)
    assert bench.seqs == [1]


def test_a_trigger_that_is_attached_anew_gets_what_was_held_and_nothing_twice() -> None:
    bench = Bench()
    bench.delivery.begin("o")
    bench.come(1)
    bench.delivery.detach()
    bench.come(2)
    bench.attach(None)
    bench.delivery.begin("o")
    bench.delivery.offer(0.0)
    assert bench.seqs == [1, 2]


def test_a_late_acknowledgement_of_another_outbox_is_ignored() -> None:
    bench = Bench()
    bench.delivery.begin("o")
    bench.come(1)
    bench.delivery.begin("fresh")
    bench.come(1)
    bench.ack(1)
    assert bench.told == []
    bench.taken[-1].ack()
    bench.calls.popleft()()
    assert bench.told == [1]
