"""The options of a cover, from which the command line and the web UI are generated.

Importing this module does not import torch.
"""

from typing import Literal

from pydantic import Field

from infer.options import ConvertOptions

MAX_KEY_CHANGE = 12  # semitones


class CoverOptions(ConvertOptions, frozen=True):
    """Options of a cover: the conversion options, which apply to the vocals, and options for stems and mixing.

    Effects and noise reduction apply to the vocals; loudness, format and preview apply to the whole song.
    """

    separation: str = Field(
        "", description="pymss model that separates vocals and instrumental (required unless a stem is given)"
    )
    lead_separation: str = Field(
        "", description="pymss model that separates lead and backing vocals (default: convert all vocals)"
    )
    dereverb: str = Field("", description="pymss model that removes reverb from the vocals (default: keep the reverb)")
    backing: Literal["keep", "convert", "drop"] = Field(
        "keep",
        description="what to do with the backing vocals (requires --lead-separation): keep them unchanged, convert "
        "them as well, or drop them",
    )
    instrumental_shift: int | None = Field(
        None,
        ge=-MAX_KEY_CHANGE,
        le=MAX_KEY_CHANGE,
        description="semitones to add to the instrumental (default: the vocals' shift, moved by whole octaves into "
        "the range from -6 to 6 so that the key matches, e.g. +11 becomes -1)",
    )
    vocal_level: float = Field(0.0, ge=-40, le=20, description="gain applied to the converted vocals, in dB")
    instrumental_level: float = Field(0.0, ge=-40, le=20, description="gain applied to the instrumental, in dB")
    vocal_pan: float = Field(
        0.0, ge=-1, le=1, description="pan position of the converted vocals; -1 = left, 0 = as in the song, 1 = right"
    )
    vocal_reverb: float = Field(
        0.0, ge=0, le=1, description="level of the reverb on the converted vocals; 0 = none, 0.15 is moderate"
    )
