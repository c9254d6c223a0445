"""Convert a recording held in memory: stereo image, effects, loudness, and the format of the source."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from infer.convert import Conversion, VoiceConverter
from infer.input_audio import INPUT_PEAK, prepare_input
from infer.loudness import limiting_gain
from infer.options import ConvertOptions
from lib.audio import ANALYSIS_RATE
from lib.audio.decode import Recording
from lib.audio.encode import Subtype, save_array, source_subtype
from lib.audio.filters import resample, resampled_length
from lib.audio.tags import Tags, read_tags
from lib.effects.chain import apply_chain
from lib.effects.formants import shift_formants
from lib.effects.loudness import to_loudness
from lib.effects.noise import reduce_noise
from lib.effects.spec import parse_chain
from lib.effects.stereo import StereoImage, find_image
from lib.errors import AudioError
from lib.messages import Message
from lib.pitch import SILENCE_PEAK
from lib.pitch.curve_file import PitchCurve
from lib.progress import Progress, checked, named, no_progress, part_of
from lib.typing import FloatArray

MAX_SECONDS = 3600.0  # of a recording; with two channels and intermediate results, this takes some gigabytes
SUBTYPES: dict[int, Subtype] = {16: "PCM_16", 24: "PCM_24", 32: "FLOAT"}


@dataclass(frozen=True)
class Sound:
    """Audio (C, T) in memory, C = 1 or 2, with the properties of its file."""

    audio: FloatArray
    sample_rate: int  # Hz
    subtype: Subtype = "PCM_16"
    tags: Tags = field(default_factory=Tags)

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.audio.shape[1] / self.sample_rate

    def save(self, path: Path, progress: Progress = no_progress) -> None:
        """Write the audio in the format given by the suffix; raises the same errors as `save_blocks`."""
        report = named(progress, Message("writing the result"))
        save_array(path, self.audio, self.sample_rate, self.subtype, self.tags, report)


class Converted(NamedTuple):
    """A converted recording, with the target F0 of its first source in Hz and its transposition in semitones."""

    sound: Sound
    f0: FloatArray | None
    pitch_shift: float


def read_sound(path: Path, options: ConvertOptions, progress: Progress = no_progress) -> Sound:
    """Read the channels of a recording that the options select; for a preview, only the beginning.

    Raises the same errors as `Recording`.
    """
    recording = Recording(path, options.channel)
    wanted = (options.preview or MAX_SECONDS) * recording.sample_rate
    blocks = []
    for block in checked(recording.blocks, lambda: progress(0, 1, Message("reading the recording"))):
        blocks.append(np.atleast_2d(block))
        if recording.samples > wanted:
            break
    audio = np.concatenate(blocks, axis=1)
    if options.preview:
        audio = audio[:, : round(wanted)]
    elif audio.shape[1] > wanted:
        raise AudioError(
            "{path} is longer than {minutes} minutes. Stereo, effects and loudness need the whole recording in memory: "
            "cut it into parts, or omit these options.",
            path=path,
            minutes=round(MAX_SECONDS / 60),
        )
    subtype = source_subtype(path) if options.keep_format else SUBTYPES[options.bit_depth]
    return Sound(audio, recording.sample_rate, subtype, read_tags(path) if options.keep_format else Tags())


def convert_sound(
    converter: VoiceConverter,
    source: Sound,
    options: ConvertOptions,
    progress: Progress = no_progress,
    curve: PitchCurve | None = None,
) -> Converted:
    """Convert a recording with all options applied.

    The result is exactly as long as the recording; its sample rate is that of the recording if `keep_format` is set,
    otherwise that of the options.
    """
    clean = denoised(source, options.noise_reduction, part_of(progress, 0, 13, 2))
    image, sources = _sources(clean, named(part_of(progress, 2, 13), Message("converting")))
    report = part_of(progress, 3, 13, 6)
    voices, f0, shift = _convert_all(converter, source.sample_rate, sources, options, report, curve)
    own_rate = converter.output_rate(options)
    rate = source.sample_rate if options.keep_format and not options.resample_rate else own_rate
    length = resampled_length(source.audio.shape[1], source.sample_rate, rate)
    report = named(part_of(progress, 9, 13, 2), Message("converting"))
    audio = np.stack(
        [
            _fitted(resample(voice, own_rate, rate, part_of(report, i, 2 * len(voices))), length)
            for i, voice in enumerate(voices)
        ]
    )
    if image is not None:
        audio = image.apply(audio[0], rate, part_of(report, 1, 2))
    audio = finish(audio, rate, options, part_of(progress, 11, 13, 2))
    return Converted(replace(source, audio=audio, sample_rate=rate), f0, shift)


def denoised(source: Sound, strength: float, progress: Progress) -> Sound:
    """Return the recording with noise reduction applied to each channel."""
    if strength <= 0:
        return source
    report, count = named(progress, Message("reducing noise")), len(source.audio)
    channels = [
        reduce_noise(channel, source.sample_rate, strength, part_of(report, i, count))
        for i, channel in enumerate(source.audio)
    ]
    return replace(source, audio=np.stack(channels))


def finish(
    audio: FloatArray, sample_rate: int, options: ConvertOptions, progress: Progress = no_progress
) -> FloatArray:
    """Apply effects, loudness and peak limiting to a result (C, T)."""
    report = named(part_of(progress, 0, 2), Message("applying the effects"))
    audio = apply_chain(audio, sample_rate, parse_chain(options.effects), report)
    if options.loudness is not None:
        report = named(part_of(progress, 1, 2), Message("setting the loudness"))
        return to_loudness(audio, sample_rate, options.loudness, report)
    limited: FloatArray = audio * limiting_gain(float(np.abs(audio).max()))
    return limited


def _sources(source: Sound, progress: Progress) -> tuple[StereoImage | None, Sequence[FloatArray]]:
    """The signals to convert: one, with its image if it is stereo, or one per channel."""
    if len(source.audio) == 1:
        return None, [source.audio[0]]
    found = find_image(source.audio, source.sample_rate, progress)
    return (None, list(source.audio)) if found is None else (found[0], [found[1]])


def _convert_all(
    converter: VoiceConverter,
    sample_rate: int,
    sources: Sequence[FloatArray],
    options: ConvertOptions,
    progress: Progress,
    curve: PitchCurve | None,
) -> tuple[list[FloatArray], FloatArray | None, float]:
    """Convert signals (T,) with one common level; a silent one beside others stays silent."""
    # Input is scaled down to INPUT_PEAK, each signal separately; scaling them together first keeps their balance.
    scale = max(float(np.abs(signal).max()) for signal in sources) / INPUT_PEAK
    results: list[FloatArray | None] = []
    f0: FloatArray | None = None
    shift = options.pitch_shift
    for i, signal in enumerate(sources):
        part = part_of(progress, i, len(sources))
        prepare, report = named(part_of(part, 0, 10, 2), Message("converting")), part_of(part, 2, 10, 6)
        analysed = resample(signal / np.float32(max(scale, 1.0)), sample_rate, ANALYSIS_RATE, part_of(prepare, 0, 2))
        if len(sources) > 1 and scale > 0 and float(np.abs(analysed).max()) < SILENCE_PEAK < scale:
            results.append(None)
            continue
        with (
            prepare_input(analysed, part_of(prepare, 1, 2)) as audio,
            converter.convert_prepared(audio, options, report, curve) as done,
        ):
            result = np.concatenate([*done.blocks()]) * np.float32(max(scale, 1.0) / done.gain)
        if options.formant_shift != 1:
            shifting = named(part_of(part, 8, 10, 2), Message("shifting the formants"))
            result = _with_formants(result, done, options.formant_shift, shifting)
        results.append(result)
        f0, shift = (done.f0, done.pitch_shift) if f0 is None else (f0, shift)
    length = max(len(result) for result in results if result is not None)
    return [np.zeros(length, np.float32) if result is None else result for result in results], f0, shift


def _with_formants(audio: FloatArray, conversion: Conversion, factor: float, progress: Progress) -> FloatArray:
    """Shift the formants of audio (T,); a voice without F0 is analysed as if it were unvoiced."""
    f0 = np.zeros(0, np.float32) if conversion.f0 is None else conversion.f0
    return shift_formants(audio, conversion.sample_rate, f0, factor, progress)


def _fitted(audio: FloatArray, length: int) -> FloatArray:
    return np.pad(audio[:length], (0, max(length - len(audio), 0)))
