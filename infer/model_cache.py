"""Nothing is read or computed twice: networks, indexes and voices stay loaded, F0 and features of a source stay known.

One `Loaded` serves a whole process, whichever voices and recordings it is asked for. Voices and indexes are read again
when their files change; F0 and features go by the content of the audio and by what they were computed with.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch

from infer.lru_cache import Kept
from lib.content import ContentEncoder, load_content_encoder
from lib.devices import Device
from lib.index import FeatureIndex
from lib.models.memory import give_back
from lib.pitch import WITH_HOP_LENGTH, ExactExtractor, load_pitch_extractor
from lib.pitch.rmvpe import is_there as rmvpe_is_there
from lib.voice.library import find_index

if TYPE_CHECKING:
    from infer.convert import VoiceConverter

Floats = npt.NDArray[np.float32]

NETWORK_BYTES = 2_000_000_000  # e.g. encoder and F0 network of v2, and five voices with their indexes
ANALYSIS_BYTES = 64_000_000  # of v2 seven minutes, of lite twenty
ENCODER_BYTES, PITCH_BYTES = 400_000_000, 200_000_000  # the largest there are; what they hold is not for us to look at


class Loaded:
    """Content encoders, F0 methods, indexes and voices; F0 and features by the content of the audio."""

    def __init__(self, network_bytes: int = NETWORK_BYTES, analysis_bytes: int = ANALYSIS_BYTES) -> None:
        self._networks = Kept(network_bytes)
        self._analyses = Kept(analysis_bytes)

    def voice(
        self,
        path: Path,
        device: Device,
        index: Path | Literal["auto"] | None = "auto",
        where: str = "",
        precision: str = "auto",
    ) -> "VoiceConverter":
        """A voice ready to convert, with an index: "auto" takes the one that belongs to it. `where` names it.

        It can be asked to convert in any precision; `precision` is the one that the content encoder is read for.
        """
        near = find_index(path) if index == "auto" else index
        key = ("voice", _stamp(path), near and _stamp(near), index == "auto", str(device.device))

        def load() -> "VoiceConverter":
            from infer.convert import VoiceConverter
            from lib.voice.model_file import read_voice_model

            model = read_voice_model(path)
            chosen = find_index(path, model.family) if index == "auto" else index
            ready = VoiceConverter.from_voice(model, chosen, device, where or str(path), self, precision, path)
            del model
            give_back()
            return ready

        return self._networks.get(key, load, lambda converter: converter.n_bytes)

    def encoder(self, family: str, device: torch.device, name: str | None, dtype: torch.dtype) -> ContentEncoder:
        """The content encoder of a family, or the one called `name`, that multiplies in `dtype`."""
        return self._networks.get(
            ("encoder", family, name, str(device), dtype),
            lambda: load_content_encoder(family, device, name, dtype),
            lambda _: ENCODER_BYTES * dtype.itemsize // 4,
        )

    def index(self, path: Path) -> FeatureIndex:
        """An index file."""
        return self._networks.get(
            ("index", _stamp(path)), lambda: FeatureIndex.load(path), lambda index: 4 * index.width * len(index)
        )

    def pitch(self, method: str, device: torch.device, crepe_hop_length: int, dtype: torch.dtype) -> ExactExtractor:
        """A pitch method, in `dtype` if it has the choice."""
        hop_length = crepe_hop_length if any(name in method for name in WITH_HOP_LENGTH) else 0
        best = rmvpe_is_there() if method == "auto" else None  # it may have been downloaded since
        return self._networks.get(
            ("pitch", method, best, hop_length, str(device), dtype),
            lambda: load_pitch_extractor(method, device, crepe_hop_length, dtype),
            lambda _: PITCH_BYTES,
        )

    def analysed(self, audio: Floats, recipe: str, analyse: Callable[[Floats], Floats]) -> Floats:
        """What `analyse` makes of audio (T,); `recipe` names it and all that it depends on. Not to be written into."""

        def make() -> Floats:
            made = analyse(audio)
            give_back()
            made.flags.writeable = False
            return made

        key = (recipe, hashlib.blake2b(np.ascontiguousarray(audio).data, digest_size=16).digest())
        return self._analyses.get(key, make, lambda made: made.nbytes)


def _stamp(path: Path) -> tuple[Path, int, int]:
    """What changes when the file does."""
    about = path.stat() if path.is_file() else None
    return path.absolute(), about.st_mtime_ns if about else 0, about.st_size if about else 0
