"""The log node: what it writes, and that it changes nothing."""

from __future__ import annotations

import pytest

from appliance.contracts import ConfigError, Effect
from appliance.nodes.log import Log
from tests.support.context import FakeContext, run_node


def test_it_logs_at_the_level_and_passes_the_payload_on() -> None:
    ctx, payload = FakeContext(), {"t": 31}
    assert run_node(Log(), {"message": "hot", "level": "warning"}, payload, ctx) is payload
    assert ctx.logs == [("warning", "hot")]


def test_without_a_message_it_logs_the_payload() -> None:
    ctx = FakeContext()
    run_node(Log(), {}, {"t": [1, None, "°"]}, ctx)
    assert ctx.logs == [("info", '{"t":[1,null,"°"]}')]


def test_a_huge_text_is_cut() -> None:
    ctx = FakeContext()
    run_node(Log(), {"message": "x" * 1_000_000}, None, ctx)
    assert len(ctx.messages()[0]) < 10_100
    assert "1000000 characters" in ctx.messages()[0]


@pytest.mark.parametrize("config", [{"level": "loud"}, {"message": 5}, {"text": "x"}])
def test_a_bad_config_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        run_node(Log(), config)


def test_it_is_pure_and_inline() -> None:
    assert Log.effect is Effect.PURE
    assert Log.inline
