"""Any order of saving, deploying, deleting and restarting, compared with a model in a few dictionaries."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from appliance.store.errors import Conflict, NotFound
from appliance.store.metadata import open_store
from tests.store.stores import Clock, body, here

IDS = st.sampled_from(["a", "b", "c"])
BODIES = st.integers(0, 3)


@dataclass
class Model:
    """A flow as it should be: bodies by number, what is live."""

    num: int
    bodies: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    live: int | None = None
    enabled: bool = True
    moves: int = 0


class FlowMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.flows: dict[str, Model] = {}
        self.bodies: dict[int, int] = {}
        self.open()

    def open(self) -> None:
        self.store = open_store(self.folder / "data", environ=here(), now=Clock())

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(id_=IDS, content=BODIES, base=st.none() | st.integers(1, 5))
    def save(self, id_: str, content: int, base: int | None) -> None:
        def call() -> Any:
            return self.store.flows.save(id_, "default", body(id_, n=content), "me", base=base)

        model = self.flows.get(id_)
        if model is None and base is not None:
            with pytest.raises(NotFound):
                call()
        elif model is not None and model.bodies[-1] == content:
            assert call().id == model.ids[-1]
        elif model is not None and base != len(model.bodies):
            with pytest.raises(Conflict) as caught:
                call()
            assert (caught.value.yours, caught.value.newest) == (base, len(model.bodies))
        else:
            version = call()
            model = self.flows.setdefault(id_, Model(version.flow))
            assert version.id not in self.bodies
            assert version.number == len(model.bodies) + 1
            model.bodies.append(content)
            model.ids.append(version.id)
            self.bodies[version.id] = content

    @rule(id_=IDS, content=BODIES)
    def save_on_the_newest(self, id_: str, content: int) -> None:
        model = self.flows.get(id_)
        self.save(id_, content, len(model.bodies) if model else None)

    @rule(id_=IDS, number=st.integers(1, 4))
    def deploy(self, id_: str, number: int) -> None:
        model = self.flows.get(id_)
        if model is None or number > len(model.bodies):
            with pytest.raises(NotFound):
                self.store.flows.deploy(id_, number, "me")
            return
        self.store.flows.deploy(id_, number, "me")
        model.moves += model.live != number
        model.live = number

    @rule(id_=IDS)
    def undeploy(self, id_: str) -> None:
        if model := self.flows.get(id_):
            self.store.flows.undeploy(id_, "me")
            model.moves += model.live is not None
            model.live = None

    @rule(id_=IDS, on=st.booleans())
    def enable(self, id_: str, on: bool) -> None:
        if model := self.flows.get(id_):
            self.store.flows.enable(id_, on, "me")
            model.moves += model.enabled != on
            model.enabled = on

    @rule(id_=IDS)
    def delete(self, id_: str) -> None:
        if self.flows.pop(id_, None):
            self.store.flows.delete(id_, "me")

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.open()

    @invariant()
    def agrees_with_the_model(self) -> None:
        found = {flow.id: flow for flow in self.store.flows.list().items}
        assert found.keys() == self.flows.keys()
        for id_, model in self.flows.items():
            flow = found[id_]
            expected = (model.num, len(model.bodies), model.live, model.enabled)
            assert (flow.num, flow.newest, flow.live_number, flow.enabled) == expected
            assert [head.id for head in self.store.flows.versions(id_)] == model.ids[::-1]
            assert len(self.store.flows.deployments(id_)) == model.moves

    @invariant()
    def every_version_is_what_it_was(self) -> None:
        for id_, content in self.bodies.items():
            assert self.store.flows.version(id_).body["n"] == content

    @invariant()
    def live_is_what_was_deployed(self) -> None:
        live = {flow.id: version.body["n"] for flow, version in self.store.flows.live()}
        models = self.flows.items()
        assert live == {id_: m.bodies[m.live - 1] for id_, m in models if m.live is not None}


FlowMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestFlows = FlowMachine.TestCase
