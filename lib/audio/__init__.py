"""Audio files: decoding, filtering, encoding, tags.

Read in this order: decode, filters, encode, tags; mel for spectrograms.
"""

from typing import Annotated

from pydantic import AfterValidator

ANALYSIS_RATE = 16_000  # Hz; F0 and content features are computed at this rate
AUDIO_FORMATS = ("wav", "flac", "mp3", "ogg", "opus", "m4a")  # that lib.audio.encode writes; suffixes without the dot


def _known_format(name: str) -> str:
    if name not in AUDIO_FORMATS:
        raise ValueError(f"choose one of {', '.join(AUDIO_FORMATS)}")
    return name


AudioFormat = Annotated[str, AfterValidator(_known_format)]  # the type of an option
