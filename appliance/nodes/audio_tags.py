"""Says what is heard in a sound: speech, a dog, breaking glass; with a model of this box or of a paired engine.

`audio` is an expression for the sound: a blob, or the path of a file, at most ten minutes of WAV (a `command` step with
ffmpeg makes that of other formats). The result is `{tags, seconds}`: each tag has a `label`, a `score` from 0 to 1, and
`at`, the second from which on it is heard best. The model is the name of a folder in `models/` whose task is `tags`.

    {"model": "yamnet", "audio": "payload.audio", "threshold": 0.3}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from msgspec import Meta

from appliance.contracts import Config, Context, Duration, Expression, Node, World, seconds
from appliance.nodes import _media


class AudioTagsConfig(Config, frozen=True):
    model: Annotated[str, Meta(title="Model", description="Its name in `models/`.", min_length=1)]
    audio: Annotated[Expression, Meta(title="Sound", description="A blob, or a path of a file.")] = "payload.audio"
    most: Annotated[int, Meta(title="Most tags", ge=1, le=1000)] = 5
    threshold: Annotated[float, Meta(title="Lowest score", description="0 to 1.", ge=0, le=1)] = 0.1
    timeout: Annotated[Duration, Meta(title="Timeout", description="Loading the model included.")] = 120.0


class AudioTags(Node[AudioTagsConfig]):
    Config = AudioTagsConfig
    title = "Tag a sound"
    category = "ai"
    icon = "mic"

    def sends_to(self, config: Mapping[str, Any], world: World) -> Iterable[str]:
        return world.model_places([str(config.get("model", ""))], "onnx")

    async def run(self, ctx: Context, config: AudioTagsConfig, payload: Any) -> Any:
        audio = _media.load(ctx, config.audio, "audio")
        options = {"top": config.most, "threshold": config.threshold}
        found = await _media.infer(ctx, config.model, "tags", {"audio": audio}, options, seconds(config.timeout))
        return found.outputs
