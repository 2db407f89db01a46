"""Finds objects in a picture with a model of this box, or of a paired engine where only that has it.

`image` is an expression for the picture: a blob as a camera gives it, or the path of a file. The result is `{objects,
count, counts, width, height}`: each object has a `label`, a `score` from 0 to 1, and its `box` as left, top, width and
height in pixels; `counts` has a number for each label. With `draw` there is `picture` too, a blob with the boxes drawn
upon it. The model is the name of a folder in `models/` whose task is `detect_objects`.

    {"model": "yolo-nano", "image": "payload.image", "labels": ["person", "dog"], "threshold": 0.5, "draw": true}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from msgspec import Meta

from appliance.contracts import Config, Context, Duration, Expression, Node, World, seconds
from appliance.nodes import _media

Share = Annotated[float, Meta(ge=0, le=1)]


class DetectObjectsConfig(Config, frozen=True):
    model: Annotated[str, Meta(title="Model", description="Its name in `models/`.", min_length=1)]
    image: Annotated[Expression, Meta(title="Picture", description="A blob, or a path of a file.")] = "payload.image"
    labels: Annotated[list[str], Meta(title="Look for", description="Labels; left empty: all.")] = []
    threshold: Annotated[
        Share | None, Meta(title="Lowest score", description="0 to 1; left empty: the model's own.")
    ] = None
    overlap: Annotated[
        Share | None,
        Meta(
            title="Same object from", description="Overlap from which two boxes are one; left empty: the model's own."
        ),
    ] = None
    most: Annotated[int, Meta(title="Most objects", ge=1, le=1000)] = 100
    draw: Annotated[bool, Meta(title="Draw the boxes", description="Gives `picture`, a blob.")] = False
    timeout: Annotated[Duration, Meta(title="Timeout", description="Loading the model included.")] = 60.0


class DetectObjects(Node[DetectObjectsConfig]):
    Config = DetectObjectsConfig
    title = "Find objects"
    category = "ai"
    icon = "eye"

    def sends_to(self, config: Mapping[str, Any], world: World) -> Iterable[str]:
        return world.model_places([str(config.get("model", ""))], "onnx")

    async def run(self, ctx: Context, config: DetectObjectsConfig, payload: Any) -> Any:
        options: dict[str, Any] = {"top": config.most, "labels": config.labels, "draw": config.draw}
        if config.threshold is not None:
            options["threshold"] = config.threshold
        if config.overlap is not None:
            options["overlap"] = config.overlap
        image = _media.load(ctx, config.image, "image")
        found = await _media.infer(
            ctx, config.model, "detect_objects", {"image": image}, options, seconds(config.timeout)
        )
        result = dict(found.outputs)
        if "picture" in result:
            result["picture"] = ctx.blobs.put(result["picture"], "image/jpeg")
        counts = Counter(one["label"] for one in result["objects"])
        return {**result, "count": counts.total(), "counts": dict(counts)}
