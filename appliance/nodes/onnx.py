"""Runs any ONNX model once: one of this box, or of a paired engine where only that has it.

`inputs` are the model's: numbers or lists of numbers by the names that its graph has, and `image`, `audio` or `text`
where its `model.json` declares them; a reference to a blob stands for its bytes (`file_read` gives one by `format:
bytes`). The result is `{outputs, task, seconds}`. What a model takes and gives, and what its `model.json` can declare,
is in docs/onnx.md. `detect_objects`, `embed` and `audio_tags` are simpler where they fit.

    {"model": "flowers", "inputs": {"image": "{{ payload.image }}"}, "options": {"top": 1}}
    {"model": "pump-wear", "inputs": {"features": "{{ [[payload.rpm, payload.temperature, payload.vibration]] }}"}}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from msgspec import Meta

from appliance.contracts import Config, ConfigError, Context, Duration, Node, World, seconds
from appliance.nodes import _media

#: Inputs that are declared in `model.json` and are bytes.
_MEDIA = {"image", "audio"}


class OnnxConfig(Config, frozen=True):
    model: Annotated[str, Meta(title="Model", description="Its name in `models/`.", min_length=1)]
    inputs: Annotated[dict[str, Any], Meta(title="Inputs", description="By the names that the model has.")]
    options: Annotated[dict[str, Any], Meta(title="Options", description="Those of the model's task.")] = {}
    timeout: Annotated[Duration, Meta(title="Timeout", description="Loading the model included.")] = 60.0


class Onnx(Node[OnnxConfig]):
    Config = OnnxConfig
    title = "Run an ONNX model"
    category = "ai"
    icon = "chip"

    def sends_to(self, config: Mapping[str, Any], world: World) -> Iterable[str]:
        return world.model_places([str(config.get("model", ""))], "onnx")

    async def run(self, ctx: Context, config: OnnxConfig, payload: Any) -> Any:
        if not config.inputs:
            raise ConfigError("inputs: the model needs at least one")
        inputs = {name: _bytes_of(ctx, name, value) for name, value in config.inputs.items()}
        found = await ctx.models.infer(config.model, inputs, config.options, seconds(config.timeout))
        outputs = {
            name: ctx.blobs.put(value, "image/jpeg") if isinstance(value, bytes) else value
            for name, value in found.outputs.items()
        }
        return {"outputs": outputs, "task": found.task, "seconds": round(found.seconds, 6)}


def _bytes_of(ctx: Context, name: str, value: Any) -> Any:
    """An input as the model gets it. Raises ``ConfigError`` for a picture or a sound that is named by its path."""
    if (data := _media.held(ctx, value, f"inputs.{name}")) is not None:
        return data
    if name in _MEDIA and isinstance(value, str):
        raise ConfigError(
            f"inputs.{name}: has to be a reference to a blob, as `file_read` gives one by `format: bytes`"
        )
    return value
