"""VoiceConverter: convert many recordings with a voice that is loaded once."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from infer.between_layers import between_layers
from infer.casting import CastSynthesizer
from infer.chunking import Chunk, ChunkLimits, join, plan_chunks
from infer.disk_buffer import DiskBuffer, collect_blocks, in_blocks
from infer.f0 import TargetF0, automatic_shift, estimate_f0, make_target_f0
from infer.features import PROTECT_OFF, blend_near, blend_retrieved, protect_consonants, to_pitch_rate
from infer.input_audio import ReflectionPadding, prepare_input
from infer.loudness import Finished, limiting_gain
from infer.model_cache import ModelCache
from infer.options import ConvertOptions
from lib.audio import ANALYSIS_RATE
from lib.audio.filters import resampled_length
from lib.config import USUAL_INDEX_RATE, LiteConfig
from lib.content import ContentEncoder
from lib.devices import Device, Precision, choose_device, choose_precision
from lib.errors import CheckpointError, ConfigError, RevoiceError
from lib.index import FeatureIndex
from lib.messages import Message
from lib.models import VoiceSynthesizer
from lib.models.memory import is_out_of_memory, trim_memory
from lib.pitch import ExactExtractor
from lib.pitch.curve_file import PitchCurve
from lib.pitch.octaves import correct_octaves
from lib.pitch.scale import FRAMES_PER_SECOND, HOP_LENGTH
from lib.progress import Progress, checked, no_progress
from lib.typing import FloatArray, Samples

logger = logging.getLogger(__name__)


class Conversion:
    """The result of a conversion: (T,) samples at `sample_rate` Hz, read block by block; close it after use.

    `f0` is the target F0, (F,) Hz at 100 frames/s, 0 where unvoiced; None if the voice has no F0 input. `gain` is the
    factor that limits the peak.
    """

    def __init__(
        self, audio: DiskBuffer, gain: np.float32, sample_rate: int, f0: FloatArray | None, pitch_shift: float = 0.0
    ) -> None:
        self._audio, self.gain = audio, gain
        self.sample_rate = sample_rate
        self.f0 = f0
        self.pitch_shift = pitch_shift

    def __enter__(self) -> "Conversion":
        return self

    def __exit__(self, *_: object) -> None:
        self._audio.close()

    def __len__(self) -> int:
        return len(self._audio)

    def blocks(self) -> Iterator[FloatArray]:
        """Yield blocks (N,) of the samples, scaled down if the peak would exceed 99% of full scale."""
        for block in in_blocks(self._audio):
            yield block if self.gain == 1 else (block * self.gain).astype(np.float32)


@dataclass(frozen=True)
class VoiceParts:
    """The parts of a converter. `infer.load` loads them from files."""

    synthesizer: VoiceSynthesizer  # in float32, evaluation mode
    encoder: ContentEncoder
    index: FeatureIndex | None = None  # None: no retrieval
    speaker_index: Callable[[int], FeatureIndex | None] = lambda speaker: None  # that of one speaker; None: the above
    index_rate: float = USUAL_INDEX_RATE  # of conversions that do not set one
    interpolate_unvoiced: bool = False  # whether the voice was trained on F0 without unvoiced gaps
    median_f0: float | None = None  # Hz, of the recordings the voice was trained on, if its file states it
    identity: str = ""  # of voice and index, for results that are kept on disk
    encoder_in: Callable[[torch.dtype], ContentEncoder] | None = None  # the encoder in a dtype; None: float32 only
    reload_synthesizer: Callable[[], VoiceSynthesizer] | None = None  # reads it again; None: a cast keeps `synthesizer`


class VoiceConverter:
    """A voice, ready to convert: synthesizer, content encoder and optionally an index, on one device.

    A converter handles one conversion at a time; options may differ between conversions. It keeps its synthesizer in
    the precision of the last one.
    """

    def __init__(
        self,
        parts: VoiceParts,
        device: Device | None = None,
        cache: ModelCache | None = None,
        *,
        limits: ChunkLimits | None = None,
        temperature: float = 1.0,
    ) -> None:
        """Raise CheckpointError if synthesizer, encoder and index differ in the dimension of content features.

        `device` defaults to the CPU. `cache` holds pitch methods, and F0 and features of recent recordings; several
        converters can share it. `limits` determine where long audio is cut; `temperature` scales the synthesizer's
        noise (0 = none).
        """
        config = parts.synthesizer.config
        _check_parts(parts)
        self.device = device or choose_device("cpu")
        self.sample_rate = config.sample_rate
        self.index = parts.index
        self._speaker_index = parts.speaker_index
        self._config = config
        self._synthesizer = CastSynthesizer(parts.synthesizer, self.device.device, parts.reload_synthesizer)
        self._casts_encoder = parts.encoder_in is not None
        self._encoder_in = parts.encoder_in or (lambda _: parts.encoder)
        self._encoder_id = f"{parts.encoder.name} {parts.encoder.sha256}"
        self._index_rate = parts.index_rate
        self._interpolate_unvoiced = parts.interpolate_unvoiced
        self._median_f0 = parts.median_f0
        self.identity = f"{parts.identity} {self._encoder_id}"
        self._cache = cache or ModelCache()
        self._limits = limits or ChunkLimits()
        self._temperature = temperature

    @property
    def n_bytes(self) -> int:
        """Size of the synthesizer's weights in its current precision, in bytes."""
        return self._synthesizer.current.n_bytes

    def output_rate(self, options: ConvertOptions) -> int:
        """Return the sample rate in Hz of the audio that `convert` returns."""
        return options.resample_rate or self.sample_rate

    def index_rate(self, options: ConvertOptions) -> float:
        """Return the weight of the retrieved features: that of the options, or the voice's recommended value."""
        return self._index_rate if options.index_rate is None else options.index_rate

    def used_index(self, options: ConvertOptions) -> str | None:
        """Return the name of the index that `convert` uses; None if it uses none."""
        index = self._index_for(options)
        return index.name if index and self.index_rate(options) > 0 else None

    def _index_for(self, options: ConvertOptions) -> FeatureIndex | None:
        """Return the index of the speaker, otherwise that of the voice; None if there is no retrieval."""
        return self.index and (self._speaker_index(options.speaker_id) or self.index)

    def pitch_method(self, options: ConvertOptions) -> str | None:
        """Return the name of the pitch method, resolved if the option is "auto"; None if the voice has no F0 input."""
        if not self._config.has_f0:
            return None
        return self._extractor(options, choose_precision(options.precision, self.device.device)).method

    def convert(self, audio: FloatArray, options: ConvertOptions, progress: Progress = no_progress) -> FloatArray:
        """Convert audio (T,) at 16 kHz to ceil(T * rate / 16000) samples, where rate is `output_rate(options)`.

        Raises AudioError if the audio is shorter than 0.05 s, digital silence or not finite, and ConfigError if the
        voice does not have the speaker.
        """
        return self.convert_with_f0(audio, options, progress)[0]

    def convert_with_f0(
        self,
        audio: FloatArray,
        options: ConvertOptions,
        progress: Progress = no_progress,
        curve: PitchCurve | None = None,
    ) -> tuple[FloatArray, FloatArray | None]:
        """Convert as `convert` does, and also return the target F0: (T // 160,) Hz, 0 where unvoiced.

        `curve` replaces the F0 of the part of the recording that it covers; pitch_shift and filter_radius do not change
        it. The F0 is None if the voice has no F0 input; raises ConfigError if `curve` is given for such a voice.
        """
        with prepare_input(audio) as prepared, self.convert_prepared(prepared, options, progress, curve) as conversion:
            return np.concatenate([*conversion.blocks()]), conversion.f0

    @torch.inference_mode()
    def convert_prepared(
        self, audio: Samples, options: ConvertOptions, progress: Progress = no_progress, curve: PitchCurve | None = None
    ) -> Conversion:
        """Convert the result of `prepare_input`, (T,) at 16 kHz, which may be hours long.

        If memory runs out, the conversion is repeated with shorter chunks, which later recordings use, too. Raises
        RevoiceError if memory runs out even with the shortest chunks.
        """
        self._check_request(audio, options, curve)
        while True:
            try:
                with between_layers(progress) as report:
                    return self._convert_all(audio, options, report, curve)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            self._use_shorter_chunks(
                len(audio) / ANALYSIS_RATE
            )  # outside, because the exception refers to the tensors to be freed

    def _use_shorter_chunks(self, seconds: float) -> None:
        """Halve the chunks until a recording of that length has several.

        Raises RevoiceError if they would be too short.
        """
        shorter, device = self._limits.halved(), self.device.device
        while shorter is not None and shorter.longest >= seconds:
            shorter = shorter.halved()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        trim_memory()
        if shorter is None:
            raise RevoiceError(
                "There is not enough memory on {device} for this conversion, even in short chunks. Close other "
                "programs, or convert on another device.",
                device=str(device),
            )
        self._limits = shorter
        logger.warning("out of memory on %s: converting again in chunks of %.0f s", device, shorter.longest)

    def _convert_all(
        self, audio: Samples, options: ConvertOptions, progress: Progress, curve: PitchCurve | None
    ) -> Conversion:
        precision = self._synthesizer.prepare(options.precision, casts_encoder=self._casts_encoder)
        chunks = plan_chunks(audio, self._limits)
        padded = ReflectionPadding(audio, self._limits.pad_frames * HOP_LENGTH)
        steps = len(chunks) + 1
        target = self._estimate_target(padded, options, precision, curve, lambda _, __, what: progress(0, steps, what))
        n_samples = resampled_length(len(audio), ANALYSIS_RATE, self.sample_rate)
        parts = self._convert_chunks(padded, target, chunks, options, precision, progress)
        joined = join(parts, n_samples, self._config.hop_length)
        f0 = None
        if target is not None:
            f0 = target.voiced_f0[self._limits.pad_frames :][: len(audio) // HOP_LENGTH]
        with collect_blocks(map(_check_finite, joined)) as raw:
            finished = Finished(raw, self.sample_rate, audio, options, self.output_rate(options))
            result = collect_blocks(checked(finished, lambda: progress(steps, steps, Message("converting"))))
        shift = options.pitch_shift if target is None else target.pitch_shift
        return Conversion(result, limiting_gain(finished.peak), finished.rate, f0, shift)

    def _check_request(self, audio: Samples, options: ConvertOptions, curve: PitchCurve | None) -> None:
        last = self._config.n_speakers - 1
        if options.speaker_id > last:
            raise ConfigError(
                "The voice has no speaker {speaker}; choose a speaker_id from 0 to {last}.",
                speaker=options.speaker_id,
                last=last,
            )
        if curve is None:
            return
        if not self._config.has_f0:
            raise ConfigError("The voice uses no F0, so an F0 file has no effect. Omit the file.")
        begin, end = float(curve.times.min()), len(audio) / ANALYSIS_RATE
        if begin >= end:
            raise ConfigError(
                "The F0 file begins at {begin:.2f} s, but the recording ends at {end:.2f} s. "
                "Use the file that belongs to this recording.",
                begin=begin,
                end=end,
            )

    def _extractor(self, options: ConvertOptions, precision: Precision) -> ExactExtractor:
        return self._cache.pitch(options.pitch_method, self.device.device, options.crepe_hop_length, precision.analysis)

    def _estimate_target(
        self,
        padded: Samples,
        options: ConvertOptions,
        precision: Precision,
        curve: PitchCurve | None,
        progress: Progress,
    ) -> TargetF0 | None:
        if not self._config.has_f0:
            return None
        extractor = self._extractor(options, precision)
        key = f"F0 by {extractor.cache_key}"
        f0 = estimate_f0(padded, lambda audio: self._cache.analysis(audio, key, extractor), progress)
        if options.correct_octaves:
            f0 = correct_octaves(padded, f0)
        shift = automatic_shift(f0, self._median_f0, options.auto_pitch)
        options = options.model_copy(update={"pitch_shift": options.pitch_shift + shift})
        fill = options.interpolate_unvoiced or self._interpolate_unvoiced
        return make_target_f0(f0, options, curve, self._limits.pad_frames, fill=fill)

    def _convert_chunks(
        self,
        padded: Samples,
        target: TargetF0 | None,
        chunks: list[Chunk],
        options: ConvertOptions,
        precision: Precision,
        progress: Progress,
    ) -> Iterator[tuple[Chunk, FloatArray]]:
        """Convert one chunk after another; yields each with its samples, including the cross-fades."""
        rng = torch.Generator().manual_seed(options.seed)
        pad_frames = self._limits.pad_frames
        for i, chunk in enumerate(chunks):
            progress(i + 1, len(chunks) + 1, Message("converting"))
            audio = chunk.padded_audio(padded, pad_frames).astype(np.float32)
            part = target.part(chunk.padded_frames(pad_frames)) if target else None
            content = self._content(audio, part, options, precision)  # [F, C]
            samples = self._synthesize(content, part, chunk.own_frames(pad_frames), options, rng)
            trim_memory()
            yield chunk, samples
        progress(len(chunks) + 1, len(chunks) + 1, Message("converting"))

    def _synthesize(
        self,
        content: FloatArray,
        target: TargetF0 | None,
        own: tuple[int, int],
        options: ConvertOptions,
        rng: torch.Generator,
    ) -> FloatArray:
        """Content (F, C) and target F0 of one chunk -> samples of its `own` frames, (start, stop)."""
        assert own[1] <= len(content), "the padding must be longer than what the encoder drops"
        device = self.device.device
        bins = f0 = None
        if target is not None:
            bins = torch.from_numpy(target.bins[: len(content)]).to(device)[None]  # [1, F]
            f0 = torch.from_numpy(target.f0[: len(content)]).to(device)[None]  # [1, F]
        audio = self._synthesizer.current.infer(
            torch.from_numpy(content).to(device)[None],  # [1, F, C]
            torch.tensor([len(content)], device=device),
            torch.tensor([options.speaker_id], device=device),
            bins,
            f0,
            rng,
            self._temperature,
            own,
        )
        result: FloatArray = audio[0, 0].cpu().numpy()
        return result

    def _content(
        self, audio: FloatArray, target: TargetF0 | None, options: ConvertOptions, precision: Precision
    ) -> FloatArray:
        """Content features of 16 kHz audio (T,), with retrieval and protection, at 100 frames/s: (F, C)."""
        key = f"content by {self._encoder_id} in {precision.encoder}"
        original = self._cache.analysis(audio, key, self._encoder_in(precision.encoder))  # [N, C]
        frames = len(target.f0) if target else len(audio) // HOP_LENGTH
        rate = self.index_rate(options)
        if rate == 0 or (index := self._index_for(options)) is None:
            return to_pitch_rate(original, frames)
        blend = blend_near if isinstance(self._config, LiteConfig) else blend_retrieved
        blended = blend(original, index.search(original), rate)
        content = to_pitch_rate(blended, frames)
        if target is None or options.protect >= PROTECT_OFF:
            return content
        voiced_f0 = target.voiced_f0[: len(content)]
        return protect_consonants(content, to_pitch_rate(original, frames), voiced_f0, options.protect)


def _check_parts(parts: VoiceParts) -> None:
    """Raise CheckpointError if the synthesizer does not have 100 frames/s or the feature dimensions differ."""
    config = parts.synthesizer.config
    if config.hop_length * FRAMES_PER_SECOND != config.sample_rate:
        raise CheckpointError(
            "The voice generates {hop_length} samples per frame of 10 ms, which does not match its sample rate of "
            "{rate} Hz. It was made for another program; use another voice.",
            hop_length=config.hop_length,
            rate=config.sample_rate,
        )
    if parts.encoder.width != config.content_width:
        raise CheckpointError(
            "The voice uses {width}-dimensional content features, but the content encoder computes {other}-dimensional "
            "ones. Use the content encoder that was made for this voice.",
            width=config.content_width,
            other=parts.encoder.width,
        )
    if parts.index is not None and parts.index.width != config.content_width:
        raise CheckpointError(
            "The voice uses {width}-dimensional content features, but the index stores {other}-dimensional ones. Use "
            "the index that was made for this voice.",
            width=config.content_width,
            other=parts.index.width,
        )


def _check_finite(block: FloatArray) -> FloatArray:
    if not np.isfinite(block).all():
        raise CheckpointError("The voice model outputs numbers that are not finite, so it is damaged. Get a new copy.")
    return block
