"""Targets for tests that ask nobody."""

from __future__ import annotations

from appliance.ai.gateway.names import Limits, Target, Upstream
from appliance.ai.providers.openai import OpenAI, OpenAIConfig


def place(name: str = "cloud", model: str = "small", url: str = "https://cloud.example/v1", **limits: float) -> Target:
    """A model of an upstream that is elsewhere."""
    kind, config = OpenAI(), OpenAIConfig(url=url)
    made = Upstream(name=name, kind=kind, config=config, place=kind.place(config), limits=Limits(**limits))  # type: ignore[arg-type]
    return Target(made, model)
