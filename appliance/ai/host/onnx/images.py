"""Pictures that strangers send: read with bounds, brought into a graph's form, and drawn upon."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from appliance.ai.host.errors import TooLarge
from appliance.ai.host.onnx import manifest
from appliance.ai.host.onnx.graph import Array
from appliance.contracts import ConfigError

#: A picture of this many pixels takes 200 MB while it is read.
MAX_PIXELS = 50_000_000
#: What cameras and programs make. Formats that run an interpreter (EPS, PDF …) are not read.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")
_QUALITY = 85


class Placed(NamedTuple):
    """A picture in a graph's form, and where it lies in there: a point (x, y) of the picture is at
    ``x * scale_x + left``, ``y * scale_y + top``.
    """

    values: Array
    scale_x: float
    scale_y: float
    left: float
    top: float


def read(data: Any, what: str = "image") -> Pillow.Image:
    """A picture, upright, in RGB. Raises ``ConfigError`` for what is none, ``TooLarge`` past the bound of pixels."""
    if not isinstance(data, bytes):
        raise ConfigError(f"{what}: this is not a picture, but {_kind(data)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of faults in metadata, and of sizes that are looked at here
            image = Pillow.open(io.BytesIO(data), formats=_FORMATS)
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise TooLarge(f"{what}: {width}x{height} pixels are more than {MAX_PIXELS:,}")
            image.load()
            upright = ImageOps.exif_transpose(image)
            return upright.convert("RGB")
    except Pillow.DecompressionBombError:
        raise TooLarge(f"{what}: it has more than {MAX_PIXELS:,} pixels") from None
    except TooLarge:
        raise
    except UnidentifiedImageError:
        raise ConfigError(f"{what}: this is not a picture of a kind that is read ({', '.join(_FORMATS)})") from None
    except Exception as exc:  # readers of broken files raise what they like
        raise ConfigError(f"{what}: this is not a picture that can be read ({_short(exc)})") from None


def place(image: Pillow.Image, wanted: manifest.Image) -> Placed:
    """The picture as the graph wants it, with a leading 1 for the batch."""
    fitted, scale_x, scale_y, left, top = _fit(image, wanted)
    if wanted.channels == "grey":
        pixels = np.asarray(fitted.convert("L"), np.float32)[:, :, None]
    else:
        pixels = np.asarray(fitted, np.float32)
        if wanted.channels == "bgr":
            pixels = pixels[:, :, ::-1]
    values = (pixels * wanted.scale - np.asarray(wanted.mean)) / np.asarray(wanted.std)
    if wanted.layout == "nchw":
        values = values.transpose(2, 0, 1)
    return Placed(np.ascontiguousarray(values[None], np.float32), scale_x, scale_y, left, top)


def _fit(image: Pillow.Image, wanted: manifest.Image) -> tuple[Pillow.Image, float, float, float, float]:
    width, height = wanted.size
    scale_x, scale_y = width / image.width, height / image.height
    if wanted.fit == "stretch":
        return image.resize((width, height), Pillow.Resampling.BILINEAR), scale_x, scale_y, 0.0, 0.0
    scale = min(scale_x, scale_y) if wanted.fit == "letterbox" else max(scale_x, scale_y)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    canvas = Pillow.new("RGB", (width, height), (wanted.fill,) * 3)
    canvas.paste(image.resize(size, Pillow.Resampling.BILINEAR), (left, top))
    return canvas, size[0] / image.width, size[1] / image.height, left, top


def draw(image: Pillow.Image, objects: Sequence[dict[str, Any]]) -> bytes:
    """A copy of the picture with the boxes and names of what was found, as JPEG."""
    image = image.copy()
    pen = ImageDraw.Draw(image)
    unit = max(image.size) / 640
    font = ImageFont.load_default(max(10.0, 14 * unit))
    names = sorted({one["label"] for one in objects})
    for one in reversed(objects):
        colour = _COLOURS[names.index(one["label"]) % len(_COLOURS)]
        left, top, width, height = one["box"]
        pen.rectangle((left, top, left + width, top + height), outline=colour, width=max(2, round(2 * unit)))
        text = f"{one['label']} {one['score']:.0%}"
        x0, y0, x1, y1 = pen.textbbox((left, top), text, font=font, anchor="lb" if top > 20 * unit else "lt")
        pen.rectangle((x0 - 2, y0 - 1, x1 + 2, y1 + 1), fill=colour)
        pen.text((x0, y0), text, fill="white", font=font, anchor="lt")
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"


def _short(exc: Exception) -> str:
    return (str(exc) or type(exc).__name__).replace("\n", " ")[:200]
