"""The options of a conversion; command line and page are generated from them. Imports no torch."""

from typing import Literal

from pydantic import BaseModel, Field, field_validator

from lib.pitch import CREPE_HOP_LENGTH, PITCH_METHODS, PitchMethod

MIN_RATE, MAX_RATE = 16_000, 48_000  # Hz, of resampled output


class ConvertOptions(BaseModel, frozen=True):
    """Options of one conversion."""

    channel: Literal["mix", "left", "right"] = Field(
        "mix", description="channel of a stereo recording to use: mix of all, left or right"
    )
    pitch_shift: float = Field(
        0.0, ge=-24, le=24, description="semitones to add to the input's pitch; 12 = one octave up"
    )
    pitch_method: PitchMethod = Field(
        "auto",
        description=f"pitch (F0) method: {', '.join(PITCH_METHODS)}, or the median of several, such as "
        "hybrid[pm+harvest]; auto = best one installed",
    )
    crepe_hop_length: int = Field(
        CREPE_HOP_LENGTH, ge=1, le=512, description="hop length of mangio-crepe in samples at 16 kHz; smaller is slower"
    )
    filter_radius: int = Field(0, ge=0, le=7, description="median filter over 3, 5 or 7 F0 frames of 10 ms; 0 = off")
    index_rate: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of content features taken from the index; 0 = none, None = the voice's recommendation, or "
        "0.75 for v1 and v2 voices and 0 for lite voices",
    )
    protect: float = Field(
        0.33, ge=0, le=0.5, description="protection of unvoiced consonants and breaths; lower protects more, 0.5 = off"
    )
    rms_mix_rate: float = Field(
        0.25, ge=0, le=1, description="0 = loudness of the input, 1 = loudness of the model's output"
    )
    resample_rate: int = Field(
        0, ge=0, le=MAX_RATE, description="output sample rate, 16000 to 48000 Hz; 0 = same as the voice"
    )
    speaker_id: int = Field(0, ge=0, examples=[0], description="speaker number, for voices with several speakers")
    seed: int = Field(0, ge=0, lt=2**63, description="random seed; the same seed gives identical output")
    interpolate_unvoiced: bool = Field(
        False, description="interpolate F0 across unvoiced gaps, as voices from programs released in 2026 expect"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        "auto",
        description="dtype of the generator, HuBERT and RMVPE (fp16, int8: generator only); "
        "auto = fastest on this hardware",
    )
    device: str = Field("auto", description="device to run on: auto, cpu, cuda, cuda:1, mps")

    @field_validator("resample_rate")
    @classmethod
    def _rate_is_useful(cls, value: int) -> int:
        if 0 < value < MIN_RATE:
            raise ValueError(f"it must be 0 or between {MIN_RATE} and {MAX_RATE} Hz")
        return value
