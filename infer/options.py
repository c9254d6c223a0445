"""How a conversion is done: one checked model, from which command line and page are made. Imports no torch."""

from typing import Literal

from pydantic import BaseModel, Field, field_validator

from lib.pitch import CREPE_HOP_LENGTH, PITCH_METHODS, PitchMethod

LOWEST_RATE, HIGHEST_RATE = 16_000, 48_000  # Hz, of resampled output


class ConvertOptions(BaseModel, frozen=True):
    """How one conversion is done."""

    pitch_shift: float = Field(0.0, ge=-24, le=24, description="semitones added to the input's pitch")
    pitch_method: PitchMethod = Field(
        "auto",
        description=f"how F0 is estimated: {', '.join(PITCH_METHODS)}, or the median of several as hybrid[pm+harvest]; "
        "auto = the best that is installed",
    )
    crepe_hop_length: int = Field(
        CREPE_HOP_LENGTH, ge=1, le=512, description="step of mangio-crepe in samples at 16 kHz; less is slower"
    )
    filter_radius: int = Field(
        0, ge=0, le=7, description="median filter of F0 over so many frames of 10 ms: 3, 5 or 7; 0 = none"
    )
    index_rate: float = Field(0.75, ge=0, le=1, description="share of retrieved content features; 0 = none")
    protect: float = Field(0.33, ge=0, le=0.5, description="guards unvoiced consonants and breaths; 0.5 = off")
    rms_mix_rate: float = Field(
        0.25, ge=0, le=1, description="loudness: 0 = follows the input, 1 = as the voice model speaks"
    )
    resample_rate: int = Field(
        0, ge=0, le=HIGHEST_RATE, description="output sample rate in Hz, 16000 to 48000; 0 = the voice's own"
    )
    speaker_id: int = Field(0, ge=0, examples=[0], description="which speaker of a voice model with several")
    seed: int = Field(0, ge=0, lt=2**63, description="the same seed gives the same output, sample for sample")
    interpolate_unvoiced: bool = Field(
        False, description="bridge unvoiced gaps of F0 by interpolation, as voices made with programs of 2026 expect"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        "auto",
        description="number type of generator, HuBERT and RMVPE (fp16, int8: of the generator alone); "
        "auto = what the hardware does fast",
    )
    device: str = Field("auto", description="where to compute: auto, cpu, cuda, cuda:1, mps")

    @field_validator("resample_rate")
    @classmethod
    def _rate_is_useful(cls, value: int) -> int:
        if 0 < value < LOWEST_RATE:
            raise ValueError(f"it must be 0 or between {LOWEST_RATE} and {HIGHEST_RATE} Hz")
        return value
