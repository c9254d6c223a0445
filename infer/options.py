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
        description="which channel of a stereo recording to use: mix (downmix to mono), left or right; stereo = "
        "convert both channels and keep the stereo image",
    )
    pitch_shift: float = Field(
        0.0, ge=-24, le=24, description="semitones to add to the input's pitch; 12 = one octave up"
    )
    auto_pitch: Literal["off", "semitones", "octaves"] = Field(
        "off",
        description="in addition to --pitch-shift, transpose the input so that its median pitch matches the voice's, "
        "by whole semitones, or by whole octaves, which keeps the key of a song",
    )
    autotune: float = Field(
        0.0,
        ge=0,
        le=1,
        description="autotune strength: how far the transposed pitch is pulled towards the nearest note of the scale; "
        "0 = off; up to 0.5, vibrato is preserved",
    )
    key: Literal["auto", Note] = Field(
        "auto", description="tonic of the autotune scale; auto = detected from the melody"
    )
    scale: Literal["auto", Scale] = Field(
        "auto", description="autotune scale; auto = major or minor, whichever fits the melody better"
    )
    correct_octaves: bool = Field(
        False,
        description="fix octave errors on high notes (800 to 2200 Hz) whose pitch was estimated an octave too low",
    )
    pitch_method: PitchMethod = Field(
        "auto",
        description=f"pitch (F0) extraction method: {', '.join(PITCH_METHODS)}, or the median of several, such as "
        "hybrid[pm+harvest]; auto = the best installed method",
    )
    crepe_hop_length: int = Field(
        CREPE_HOP_LENGTH,
        ge=1,
        le=512,
        description="hop length of mangio-crepe in samples at 16 kHz; smaller values give finer time resolution but "
        "are slower",
    )
    filter_radius: int = Field(0, ge=0, le=7, description="median filter over 3, 5 or 7 F0 frames of 10 ms; 0 = off")
    index_rate: float | None = Field(
        None,
        ge=0,
        le=1,
        description="how strongly features retrieved from the index are blended into the input's content features; 0 "
        "= not at all, 1 = completely (default: the rate recommended in the voice's metadata, otherwise 0.75 for v1 "
        "and v2 voices and 0 for lite voices)",
    )
    protect: float = Field(
        0.33,
        ge=0,
        le=0.5,
        description="protection of unvoiced consonants and breaths; lower values protect more; 0.5 = off",
    )
    rms_mix_rate: float = Field(
        0.25, ge=0, le=1, description="loudness envelope of the result; 0 = the input's, 1 = the model output's"
    )
    resample_rate: int = Field(
        0, ge=0, le=MAX_RATE, description="output sample rate in Hz, 16000 to 48000; 0 = the voice's"
    )
    formant_shift: float = Field(
        1.0,
        ge=0.5,
        le=2,
        description="formant scaling factor, leaving the pitch unchanged; above 1 = shorter vocal tract (brighter), "
        "below 1 = longer (deeper)",
    )
    noise_reduction: float = Field(
        0.0, ge=0, le=1, description="strength of noise reduction on the input; 0 = off, 1 = maximum"
    )
    effects: Annotated[str, AfterValidator(_known_effects)] = Field(
        "",
        examples=["", *PRESETS],
        description=f"effects on the result: presets ({', '.join(PRESETS)}) or a chain such as "
        '"highpass=80, compressor=-20:3, reverb=0.2" (default: none)',
    )
    keep_format: bool = Field(
        False, description="write the result with the recording's sample rate, bit depth, tags and cover art"
    )
    bit_depth: Literal[16, 24, 32] = Field(
        16, description="bit depth of WAV and FLAC; 32 = 32-bit float (WAV only; FLAC is then written at 24 bits)"
    )
    loudness: float | None = Field(
        None,
        ge=-40,
        le=-5,
        description="target integrated loudness of the result in LUFS (EBU R 128), with the true peak limited to "
        "-1 dBTP; -14 is typical for streaming (default: unchanged)",
    )
    preview: float = Field(
        0.0, ge=0, le=60, description="convert only this many seconds from the start; 0 = everything"
    )
    speaker_id: int = Field(0, ge=0, examples=[0], description="speaker number, for voices with several speakers")
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="random seed; the same seed and settings give the same output on the same hardware",
    )
    interpolate_unvoiced: bool = Field(
        False,
        description="interpolate F0 across unvoiced gaps; use for voices trained with interpolated F0, such as those "
        "trained with RVC versions released since 2026",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        "auto",
        description="numeric precision of the networks; fp16 and int8 apply to the generator only, fp32 and bf16 also "
        "to HuBERT and RMVPE; auto = bf16 or int8 if the hardware accelerates it, otherwise fp32",
    )
    device: str = Field("auto", description="device to run on: auto, cpu, cuda, cuda:1, mps")

    @property
    def uses_memory(self) -> bool:
        """Whether an option requires the whole recording to be held in memory; otherwise it is converted block by
        block."""
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
