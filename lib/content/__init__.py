"""Content encoders: features of the speech content that depend little on the speaker.

There is one module per encoder, imported when it is loaded.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import torch

from lib.errors import ConfigError
from lib.typing import FloatArray

HOP_LENGTH = 320  # samples, 20 ms: 50 frames per second
WINDOW_LENGTH = 400  # samples, 25 ms


class ContentEncoder(Protocol):
    """Computes content features of 16 kHz mono audio: (T,) float32 -> ((T - 80) // 320, C) float32.

    All encoders return exactly this number of frames; 0 frames for audio shorter than one window. Frame i covers the
    samples [320 i, 320 i + 400).
    """

    width: int
    name: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights, in hexadecimal; a voice model records it."""
        ...

    def __call__(self, audio: FloatArray) -> FloatArray: ...


@runtime_checkable
class BatchEncoder(Protocol):
    """A ContentEncoder that processes several clips faster as one batch, with the same features."""

    def batch(self, clips: Sequence[FloatArray]) -> list[FloatArray]:
        """Compute the features of each clip."""
        ...


def encode_clips(encoder: ContentEncoder, clips: Sequence[FloatArray]) -> list[FloatArray]:
    """Compute the features of several clips, as one batch if the encoder supports it."""
    return encoder.batch(clips) if isinstance(encoder, BatchEncoder) else [encoder(clip) for clip in clips]


CONTENTVEC = "contentvec"  # the encoder of v1 and v2 voices, unless the file names another
SAME_AS_CONTENTVEC = {"hubert_base", "hubert-base", "hubert"}  # names of it in other programs
REPOSITORIES = {  # on the Hugging Face Hub, of other encoders that voices name
    "chinese-hubert-base": "TencentGameMate/chinese-hubert-base",
    "japanese-hubert-base": "rinna/japanese-hubert-base",
    "korean-hubert-base": "team-lucid/hubert-base-korean",
}
NAMED = {*REPOSITORIES, "spin", "spin-v2"}  # encoders that programs spell with hyphens or underscores
FAMILIES: dict[str, str] = {"v1": "lib.content.hubert", "v2": "lib.content.hubert", "lite": "lib.content.lite"}


def canonical_name(name: str) -> str:
    """Return this program's name for a content encoder, given any of the names that other programs use."""
    if name in SAME_AS_CONTENTVEC:
        return CONTENTVEC
    hyphenated = name.replace("_", "-").lower()
    return hyphenated if hyphenated in NAMED else name


def content_frames(samples: int) -> int:
    """Return the number of content frames of `samples` samples at 16 kHz: (samples - 80) // 320, never negative."""
    return max((samples - (WINDOW_LENGTH - HOP_LENGTH)) // HOP_LENGTH, 0)


def casts_encoder(family: str) -> bool:
    """Whether the content encoder of a family can compute in a dtype other than float32; the lite encoder would not be
    any faster."""
    return family != "lite"


def find_content_encoder(family: str, name: str | None = None) -> Path:
    """Return the file or folder from which `load_content_encoder` loads, without reading the weights.

    Raises MissingFileError if it is not installed, and ConfigError or CheckpointError if it is not compatible with the
    family.
    """
    _check_choice(family, name)
    found: Path = importlib.import_module(FAMILIES[family]).locate(family, name)
    return found


def load_content_encoder(
    family: str, device: torch.device, name: str | None = None, dtype: torch.dtype = torch.float32
) -> ContentEncoder:
    """Load the content encoder for models of `family` ("v1", "v2" or "lite") onto `device`.

    `name` selects a HuBERT; v1 and v2 voices usually use ContentVec. lite has only one encoder. `dtype` applies to the
    encoders that `casts_encoder` reports as castable.
    """
    _check_choice(family, name)
    module = importlib.import_module(FAMILIES[family])
    chosen: dict[str, object] = {} if family == "lite" else {"dtype": dtype} | ({} if name is None else {"name": name})
    return cast(ContentEncoder, module.load(family, device, **chosen))


def _check_choice(family: str, name: str | None) -> None:
    """Raise ConfigError if a family is unknown or does not support the encoder."""
    if family not in FAMILIES:
        raise ConfigError(
            "The model family {family!r} does not exist. Choose one of {families}.",
            family=family,
            families=", ".join(FAMILIES),
        )
    if family == "lite" and name not in (None, "lite"):
        raise ConfigError(
            "Models of the lite family use their own content encoder, not {name!r}. Omit the name.", name=name
        )
