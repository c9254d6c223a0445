"""The options of a conversion, from which the command line and the web UI are generated.

Importing this module does not import torch.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, field_validator

from lib.effects.spec import PRESETS, parse_chain
from lib.errors import ConfigError
from lib.pitch import CREPE_HOP_LENGTH, PITCH_METHODS, PitchMethod
from lib.pitch.autotune import Note, Scale

MIN_RATE, MAX_RATE = 16_000, 48_000  # Hz, of resampled output


def _known_effects(text: str) -> str:
    try:
        parse_chain(text)
    except ConfigError as error:
        raise ValueError(str(error).rstrip(".")) from error
    return text


class ConvertOptions(BaseModel, frozen=True):
    """Options of one conversion."""

    channel: Literal["mix", "left", "right", "stereo"] = Field(
        "mix",
        description="channel of a stereo recording to use: mix of all, left or right; stereo = convert both and keep "
        "the stereo image",
    )
    pitch_shift: float = Field(
        0.0, ge=-24, le=24, description="semitones to add to the input's pitch; 12 = one octave up"
    )
    auto_pitch: Literal["off", "semitones", "octaves"] = Field(
        "off",
        description="also shift the input's median pitch to the voice's, in whole semitones, or in octaves, which "
        "keeps the key of a song",
    )
    autotune: float = Field(
        0.0,
        ge=0,
        le=1,
        description="autotune strength: how far the transposed pitch moves to the nearest note of the scale; 0 = off, "
        "vibrato is preserved up to 0.5",
    )
    key: Literal["auto", Note] = Field(
        "auto", description="key of the result, for autotune; auto = detected from the melody, as major or minor"
    )
    scale: Literal["auto", Scale] = Field(
        "auto", description="scale of the result, for autotune; auto = major or minor, whichever fits the melody better"
    )
    correct_octaves: bool = Field(
        False, description="correct high notes (800 to 2200 Hz) whose pitch was estimated an octave too low"
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
    formant_shift: float = Field(
        1.0,
        ge=0.5,
        le=2,
        description="factor that scales the result's formants at the same pitch; above 1 the voice sounds smaller, "
        "below 1 larger",
    )
    noise_reduction: float = Field(
        0.0, ge=0, le=1, description="strength of noise reduction on the input; 0 = off, 1 = as much as possible"
    )
    effects: Annotated[str, AfterValidator(_known_effects)] = Field(
        "",
        examples=["", *PRESETS],
        description=f"effects on the result: presets ({', '.join(PRESETS)}) or a chain such as "
        '"highpass=80, compressor=-20:3, reverb=0.2"',
    )
    keep_format: bool = Field(
        False, description="write the result with the recording's sample rate, bit depth, tags and cover art"
    )
    bit_depth: Literal[16, 24, 32] = Field(
        16, description="bit depth of WAV and FLAC: 16, 24, or 32 = float (WAV only; FLAC then has 24)"
    )
    loudness: float | None = Field(
        None,
        ge=-40,
        le=-5,
        description="integrated loudness of the result in LUFS (EBU R128), true peak at most -1 dBTP; -14 is usual for "
        "streaming, None = as converted",
    )
    preview: float = Field(0.0, ge=0, le=60, description="convert only this many seconds from the start; 0 = all")
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

    @property
    def uses_memory(self) -> bool:
        """Whether an option requires the whole recording in memory; otherwise it is converted block by block."""
        return (
            self.channel == "stereo"
            or self.keep_format
            or self.bit_depth != 16
            or self.loudness is not None
            or self.preview > 0
            or self.formant_shift != 1
            or self.noise_reduction > 0
            or bool(parse_chain(self.effects))
        )

    @field_validator("resample_rate")
    @classmethod
    def _rate_is_useful(cls, value: int) -> int:
        if 0 < value < MIN_RATE:
            raise ValueError(f"it must be 0 or between {MIN_RATE} and {MAX_RATE} Hz")
        return value
