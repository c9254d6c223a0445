"""The options of a cover, from which the command line and the web UI are generated.

Importing this module does not import torch.
"""

from typing import Literal

from pydantic import Field

from infer.options import ConvertOptions

MAX_KEY_CHANGE = 12  # semitones


class CoverOptions(ConvertOptions, frozen=True):
    """Options of a cover: those of the conversion of its vocals, and those of stems and mix.

    Effects and noise reduction apply to the vocals; loudness, format and preview apply to the whole song.
    """

    separation: str = Field(
        "", description="pymss model that separates vocals and instrumental; not needed if you provide a stem"
    )
    lead_separation: str = Field(
        "", description="pymss model that separates lead and backing vocals; empty = convert all vocals"
    )
    dereverb: str = Field("", description="pymss model that removes reverb from the vocals; empty = keep the reverb")
    backing: Literal["keep", "convert", "drop"] = Field(
        "keep",
        description="what to do with separated backing vocals (needs lead_separation): keep, convert too, or drop",
    )
    instrumental_shift: int | None = Field(
        None,
        ge=-MAX_KEY_CHANGE,
        le=MAX_KEY_CHANGE,
        description="semitones to add to the instrumental; None = same shift as the vocals, minus whole octaves",
    )
    vocal_level: float = Field(0.0, ge=-40, le=20, description="level of the converted vocals in dB")
    instrumental_level: float = Field(0.0, ge=-40, le=20, description="level of the instrumental in dB")
    vocal_pan: float = Field(0.0, ge=-1, le=1, description="pan position of the converted vocals: -1 = left, 1 = right")
    vocal_reverb: float = Field(
        0.0, ge=0, le=1, description="level of the reverb on the converted vocals; 0 = none, 0.15 is moderate"
    )
