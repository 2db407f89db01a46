"""Sounds for a graph: WAV files read with bounds, brought to a rate, cut into windows, turned into mel spectrograms."""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

import numpy as np

from appliance.ai.host.errors import TooLarge
from appliance.ai.host.onnx.graph import Array
from appliance.ai.host.onnx.manifest import Audio, Mel
from appliance.contracts import ConfigError

#: Seconds and samples of a sound. A longer one is cut into files before.
MAX_SECONDS = 600
_MAX_SAMPLES = 30_000_000
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_MAX_WINDOWS = 1200


class Sound(NamedTuple):
    """One channel, values from -1 to 1."""

    samples: Array
    rate: int


def read(data: Any, what: str = "audio") -> Sound:
    """A WAV file (RIFF; PCM of 8 to 32 bits, or floating point), its channels mixed to one.

    Raises ``ConfigError`` for what is none, ``TooLarge`` past ten minutes.
    """
    if not isinstance(data, bytes):
        raise ConfigError(f"{what}: this is not a sound, but a value of type {type(data).__name__}")
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise ConfigError(f"{what}: this is not a WAV file; `command` with ffmpeg makes one of other formats")
    chunks = _chunks(data)
    try:
        kind, channels, rate, _, align, bits = struct.unpack_from("<HHIIHH", chunks[b"fmt "])
        if kind == _EXTENSIBLE:
            (kind,) = struct.unpack_from("<H", chunks[b"fmt "], 24)
        body = chunks[b"data"]
    except (KeyError, struct.error):
        raise ConfigError(f"{what}: the WAV file is cut off or damaged") from None
    if not (0 < channels <= 32 and 1000 <= rate <= 384_000 and align == channels * bits // 8):
        raise ConfigError(f"{what}: the WAV file has {channels} channels of {bits} bits at {rate} Hz, which cannot be")
    frames = len(body) // align
    if frames > min(MAX_SECONDS * rate, _MAX_SAMPLES):
        raise TooLarge(f"{what}: {frames / rate:.0f} s are more than {MAX_SECONDS}")
    if not frames:
        raise ConfigError(f"{what}: there is no sound in the WAV file")
    values = _values(bytes(body[: frames * align]), kind, bits, what)
    mixed = values.reshape(frames, channels).mean(axis=1, dtype=np.float32)
    return Sound(np.nan_to_num(mixed, posinf=0, neginf=0), rate)


def _chunks(data: bytes) -> dict[bytes, memoryview]:
    """The first chunk of each name; a length that goes past the end is that of a recording that was cut off."""
    found: dict[bytes, memoryview] = {}
    view, at = memoryview(data), 12
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        found.setdefault(name, view[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
    return found


def _values(body: bytes, kind: int, bits: int, what: str) -> Array:
    if kind == _FLOAT and bits in (32, 64):
        return np.frombuffer(body, f"<f{bits // 8}").astype(np.float32)
    if kind == _PCM and bits == 8:  # the only one without a sign
        return (np.frombuffer(body, np.uint8).astype(np.float32) - 128) / 128
    if kind == _PCM and bits in (16, 32):
        return np.asarray(np.frombuffer(body, f"<i{bits // 8}").astype(np.float32) / (1 << bits - 1))
    if kind == _PCM and bits == 24:
        three = np.frombuffer(body, np.uint8).reshape(-1, 3)
        wide = np.zeros((len(three), 4), np.uint8)
        wide[:, 1:] = three
        return wide.view("<i4").ravel().astype(np.float32) / 2**31
    raise ConfigError(f"{what}: WAV of kind {kind} with {bits} bits is not read; convert it to 16 bit PCM")


def at_rate(sound: Sound, rate: int) -> Array:
    """The samples at another rate, without what that cannot hold: the spectrum is cut off, or filled up with zeros."""
    if sound.rate == rate:
        return sound.samples
    count = max(1, round(len(sound.samples) * rate / sound.rate))
    spectrum = np.fft.rfft(sound.samples)
    return np.asarray(np.fft.irfft(spectrum[: count // 2 + 1], count) * (count / len(sound.samples)), np.float32)


def windows(samples: Array, wanted: Audio) -> list[tuple[float, Array]]:
    """Windows with their beginnings in seconds; the last one is filled up with silence."""
    if not wanted.seconds:
        return [(0.0, samples)]
    length = round(wanted.seconds * wanted.rate)
    found = []
    for at in range(0, len(samples), length)[:_MAX_WINDOWS]:
        part = samples[at : at + length]
        found.append((at / wanted.rate, np.pad(part, (0, length - len(part)))))
    return found


def features(samples: Array, wanted: Audio, rank: int) -> Array:
    """What the graph gets of a window: samples or a mel spectrogram, with leading ones up to ``rank`` axes."""
    values = samples if wanted.mel is None else mel(samples, wanted.rate, wanted.mel)
    return values.reshape((1,) * (rank - values.ndim) + values.shape)


def mel(samples: Array, rate: int, wanted: Mel) -> Array:
    """The spectrogram: a Hann window (periodic), the power of its spectrum, summed into bands, as a logarithm."""
    samples = np.pad(samples, (0, max(0, wanted.window - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, wanted.window)[:: wanted.hop]
    window = 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(wanted.window) / wanted.window)
    spectrum = np.abs(np.fft.rfft(frames * window.astype(np.float32), wanted.fft, axis=1)) ** wanted.power
    values = np.maximum(spectrum @ bands(rate, wanted).T, wanted.floor)
    if wanted.log == "ln":
        values = np.log(values)
    elif wanted.log != "none":
        values = np.log10(values) * (10 if wanted.log == "db" else 1)
    values = ((values - wanted.mean) / wanted.std).astype(np.float32)
    return np.asarray(values if wanted.order == "frames-bands" else values.T)


def bands(rate: int, wanted: Mel) -> Array:
    """Triangles in the spectrum (bands, frequencies), each from the middle of the band before to that of the next."""
    high = wanted.high or rate / 2
    if not wanted.low < high <= rate / 2:
        raise ConfigError(f"the bands go from {wanted.low} to {high} Hz, and the sound has at most {rate / 2}")
    to_mel, to_hertz = (_slaney, _from_slaney) if wanted.scale == "slaney" else (_htk, _from_htk)
    edges = to_hertz(np.linspace(to_mel(np.asarray(wanted.low)), to_mel(np.asarray(high)), wanted.bands + 2))
    frequencies = np.fft.rfftfreq(wanted.fft, 1 / rate)
    rise = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return np.asarray(np.maximum(0, np.minimum(rise, fall)), np.float32)


def _htk(hertz: Array) -> Array:
    return np.asarray(2595 * np.log10(1 + hertz / 700))


def _from_htk(mels: Array) -> Array:
    return np.asarray(700 * (10 ** (mels / 2595) - 1))


def _slaney(hertz: Array) -> Array:
    """Linear to 1 kHz (15 mels), then 27 mels for each factor of 6.4 (Slaney, Auditory Toolbox, 1998)."""
    return np.asarray(
        np.where(hertz < 1000, hertz * 3 / 200, 15 + 27 * np.log(np.maximum(hertz, 1) / 1000) / math.log(6.4))
    )


def _from_slaney(mels: Array) -> Array:
    return np.asarray(np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * math.log(6.4) / 27)))
