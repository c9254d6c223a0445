"""The config of the lite networks: from the names and shapes of their tensors, and as the list in voice models."""

from typing import Any

from lib.config import LiteConfig
from lib.errors import CheckpointError
from lib.voice.weights import Weights

SAMPLE_RATE = 24_000  # Hz
FRAME_RATE = 100  # frames per second
MAX_BLOCKS = 64
SEGMENT_FRAMES = 96  # of training; a voice does not need it
Declared = dict[str, Any]
_FIELDS = ("sample_rate", "n_fft")


def matches(weights: Weights) -> bool:
    """Whether tensors with these names belong to a LiteSynthesizer."""
    return "enc_p.first.weight" in weights and "dec.first.weight" in weights


def parse_config_list(raw: Any, where: str) -> Declared:
    """Map the values of a voice model's `config` list to field names. Raises CheckpointError if it is not such a
    list."""
    if not isinstance(raw, list | tuple) or len(raw) != len(_FIELDS):
        raise CheckpointError(
            "{path}: the entry 'config' is not the list of two values of a lite voice. Get a new copy of the voice.",
            path=where,
        )
    return dict(zip(_FIELDS, raw, strict=True))


def config_list(config: LiteConfig) -> list[Any]:
    """Return the list that a voice model stores as `config`."""
    return [getattr(config, name) for name in _FIELDS]


def derive(weights: Weights, declared: Declared, where: str) -> LiteConfig:
    """Derive the config of a network from its weights.

    The sample rate, which is 24 kHz, cannot be inferred from the tensors; raises CheckpointError if another one is
    declared. Also raises KeyError if a tensor is missing, and ValidationError, IndexError, TypeError or ValueError if
    shapes are impossible.
    """
    width, inputs = weights["enc_p.first.weight"].shape
    channels, bands, _ = weights["dec.first.weight"].shape
    speakers, gin = weights["emb_g.weight"].shape
    sample_rate = int(declared.get("sample_rate", SAMPLE_RATE))
    if sample_rate != SAMPLE_RATE:
        raise CheckpointError(
            "{path} is a lite model, whose sample rate is {rate} Hz, not {declared} Hz. Specify the correct sample "
            "rate.",
            path=where,
            rate=SAMPLE_RATE,
            declared=sample_rate,
        )
    if bands < 3 or inputs < 3:
        raise ValueError("too few inputs")
    return LiteConfig(
        sample_rate=sample_rate,
        n_fft=2 * (weights["dec.last.weight"].shape[0] // 3 - 1),
        hop_length=sample_rate // FRAME_RATE,
        segment_frames=SEGMENT_FRAMES,
        n_mels=bands - 2,
        prior_channels=width,
        prior_blocks=_count(weights, "enc_p.blocks.{}.norm.weight"),
        vocoder_channels=channels,
        vocoder_blocks=_count(weights, "dec.blocks.{}.norm.weight"),
        n_speakers=speakers,
        gin_channels=gin,
        content_width=inputs - 2,
    )


def _count(weights: Weights, pattern: str) -> int:
    number = 0
    while pattern.format(number) in weights and number <= MAX_BLOCKS:
        number += 1
    return number
