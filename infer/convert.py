"""VoiceConverter: load a voice once, convert many recordings with it."""

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from infer.chunking import FRAME_RATE, HOP_LENGTH, Chunk, ChunkLimits, join, plan_chunks
from infer.disk_buffer import Samples, Spool, gather, in_blocks
from infer.f0 import Melody, estimate, sing
from infer.features import PROTECT_OFF, blend_retrieved, protect_consonants, to_pitch_rate
from infer.input_audio import Reflected, listen
from infer.loudness import follow_envelope, limiting_gain, peak_of
from infer.model_cache import Loaded
from infer.options import ConvertOptions
from lib.audio.filters import ANALYSIS_RATE, resample_blocks, resampled_length
from lib.content import ContentEncoder, canonical_name, encoder_dtype
from lib.devices import Device, analysis_dtype, choose_device, generator_dtype
from lib.errors import CheckpointError, ConfigError
from lib.index import FeatureIndex
from lib.models.memory import give_back
from lib.models.synthesizer import Synthesizer, agreement_in_db
from lib.pitch import ExactExtractor
from lib.pitch.curve_file import PitchCurve
from lib.progress import Progress, no_progress
from lib.voice.model_file import ContentEncoderId, VoiceModel, load_synthesizer, read_voice_model

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
IN_FLOAT32 = (torch.float32, torch.float32)
INT8_CHANNELS = 512  # at the start of a generator; in the smaller one of lite, rounding takes longer than it saves
LEAST_AGREEMENT = 30.0  # dB; bfloat16 has about 40


class Converted:
    """The result of a conversion: `samples` samples at `sample_rate` Hz, read block by block; close it when done."""

    def __init__(self, sound: Spool, gain: np.float32, sample_rate: int, f0: Floats | None) -> None:
        self._sound, self._gain = sound, gain
        self.sample_rate = sample_rate
        self.f0 = f0  # what was sung: (F,) Hz at 100 frames/s, 0 where unvoiced; None for a voice without F0

    def __enter__(self) -> "Converted":
        return self

    def __exit__(self, *_: object) -> None:
        self._sound.close()

    def __len__(self) -> int:
        return len(self._sound)

    def blocks(self) -> Iterator[Floats]:
        """The samples, none of them above 99 % of full scale."""
        for block in in_blocks(self._sound):
            yield block if self._gain == 1 else (block * self._gain).astype(np.float32)


class VoiceConverter:
    """A voice, ready to convert: synthesizer, content encoder and perhaps an index, on one device.

    One converter may serve one conversion after the other with different options, but not two at a time: it holds its
    generator in the number type of the last.
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        encoder: ContentEncoder,
        index: FeatureIndex | None = None,
        device: Device | None = None,
        *,
        loaded: Loaded | None = None,
        limits: ChunkLimits | None = None,
        temperature: float = 1.0,
    ) -> None:
        """`loaded` has pitch methods, and F0 and features of recordings that were heard before.

        `limits` say how long audio is cut; `temperature` scales the synthesizer's noise (0 = none, for tests).
        """
        self.device = device or choose_device("cpu")
        self.sample_rate = synthesizer.config.sample_rate
        self.index = index
        self._synthesizer = synthesizer.to(self.device.device)
        self._dtypes = IN_FLOAT32  # of the generator, and of prior and flow
        self._bears_int8 = synthesizer.config.upsample_initial_channel >= INT8_CHANNELS  # until it is tried
        self._in_float32: Callable[[], Synthesizer] = lambda: synthesizer
        self._encoder_in: Callable[[torch.dtype], ContentEncoder] = lambda _: encoder
        self._encoder_id = f"{encoder.name} {encoder.sha256}"
        self._limits = limits or ChunkLimits()
        self._temperature = temperature
        self._family = "lite"  # it decides what the encoder multiplies in, where there is a choice
        self._interpolates = False  # whether the voice was trained on F0 without unvoiced gaps
        self._loaded = loaded or Loaded()
        width, hop_length = synthesizer.config.content_width, synthesizer.config.hop_length
        if hop_length * FRAME_RATE != self.sample_rate:
            raise CheckpointError(
                f"The voice makes {hop_length} samples per frame of 10 ms, which is not its sample rate of "
                f"{self.sample_rate} Hz. It was made for another program; use another voice."
            )
        for what, other in (("content encoder", encoder.width), ("index", index.width if index else width)):
            if other != width:
                raise CheckpointError(
                    f"The voice works on {width} content features, but the {what} has {other}. "
                    f"Use the {what} that was made for this voice."
                )

    @classmethod
    def load(cls, model: Path, index: Path | None = None, device: Device | None = None) -> "VoiceConverter":
        """Load a voice model and, if given, its index. MissingFileError or CheckpointError."""
        return cls.from_voice(read_voice_model(model), index, device, where=str(model), path=model)

    @classmethod
    def from_voice(
        cls,
        voice: VoiceModel,
        index: Path | None = None,
        device: Device | None = None,
        where: str = "The voice model",
        loaded: Loaded | None = None,
        precision: str = "auto",
        path: Path | None = None,
    ) -> "VoiceConverter":
        """Make a voice that was read ready to convert; `where` names it in messages.

        The content encoder is read for `precision`. With the voice's `path` only one number type of its generator is
        held, and the file is read again when float32 is wanted after a shorter one.
        """
        device, loaded = device or choose_device(), loaded or Loaded()
        synthesizer = load_synthesizer(voice, where).fold_weight_norm()
        wanted = recorded_encoder(voice)
        encoder_in = partial(loaded.encoder, voice.family, device.device, wanted.name if wanted else None)
        encoder = encoder_in(encoder_dtype(voice.family, analysis_dtype(precision, device.device)))
        check_encoder(voice, encoder, where)
        logger.info("%s: family %s, %s; device: %s (%s)", where, voice.family, voice.info, device.device, device.reason)
        converter = cls(synthesizer, encoder, loaded.index(index) if index else None, device, loaded=loaded)
        converter._interpolates = bool(voice.extra.get("interpolate_unvoiced"))
        converter._family, converter._encoder_in = voice.family, encoder_in
        if path is not None:
            converter._in_float32 = partial(_read_again, path, device)
        return converter

    @property
    def n_bytes(self) -> int:
        """Memory of the synthesizer, as it is now."""
        return self._synthesizer.n_bytes

    def output_rate(self, options: ConvertOptions) -> int:
        """Sample rate in Hz of what `convert` returns."""
        return options.resample_rate or self.sample_rate

    def pitch_method(self, options: ConvertOptions) -> str | None:
        """Name of the pitch method used, also when "auto" is asked for; None for a voice that uses no F0."""
        return self._extractor(options).method if self._synthesizer.config.has_f0 else None

    def convert(self, audio: Floats, options: ConvertOptions, progress: Progress = no_progress) -> Floats:
        """Convert (T,) at 16 kHz to ceil(T * rate / 16000) samples at `output_rate(options)`.

        Raises AudioError for audio that holds nothing to convert, ConfigError for a speaker the voice does not have.
        """
        return self.convert_with_f0(audio, options, progress)[0]

    def convert_with_f0(
        self, audio: Floats, options: ConvertOptions, progress: Progress = no_progress, curve: PitchCurve | None = None
    ) -> tuple[Floats, Floats | None]:
        """Convert as `convert` does, and return the F0 that was sung too: (T // 160,) Hz, 0 where unvoiced.

        `curve` replaces the F0 of the part of the recording it covers. It says what is sung: neither pitch_shift nor
        filter_radius change it. The F0 is None for a voice that uses none, for which a curve is a ConfigError.
        """
        with listen(audio) as song, self.convert_song(song, options, progress, curve) as converted:
            return np.concatenate([*converted.blocks()]), converted.f0

    def convert_stream(
        self, blocks: Iterable[Floats], options: ConvertOptions, progress: Progress = no_progress
    ) -> Iterator[Floats]:
        """Convert blocks (N,) at 16 kHz to blocks at `output_rate(options)`, in memory that does not grow with them.

        Nothing leaves before everything has come: level and peaks are those of the whole.
        """
        with gather(blocks) as audio, listen(audio) as song, self.convert_song(song, options, progress) as converted:
            yield from converted.blocks()

    @torch.inference_mode()
    def convert_song(
        self, song: Samples, options: ConvertOptions, progress: Progress = no_progress, curve: PitchCurve | None = None
    ) -> Converted:
        """Convert what `listen` made of a recording, (T,) at 16 kHz, which may be hours long."""
        self._check(song, options, curve)
        chunks = plan_chunks(song, self._limits)
        padded = Reflected(song, self._limits.pad_frames * HOP_LENGTH)
        progress(0, len(chunks) + 1, "estimating F0")
        melody = self._estimate_melody(padded, options, curve)
        n_samples = resampled_length(len(song), ANALYSIS_RATE, self.sample_rate)
        parts = self._render_all(padded, melody, chunks, options, progress)
        joined = join(parts, n_samples, self._synthesizer.config.hop_length)
        own_f0 = None
        if melody is not None:
            own_f0 = melody.voiced_f0[self._limits.pad_frames :][: len(song) // HOP_LENGTH]
        rate, peak = self.output_rate(options), 0.0

        def finished() -> Iterator[Floats]:
            nonlocal peak
            mixed = follow_envelope(raw, self.sample_rate, song, ANALYSIS_RATE, options.rms_mix_rate)
            room = resampled_length(len(song), ANALYSIS_RATE, rate)
            for block in resample_blocks(mixed, self.sample_rate, rate):
                kept = block[:room]
                peak, room = max(peak, peak_of(kept)), room - len(kept)
                yield kept

        with gather(map(_finite, joined)) as raw:
            sound = gather(finished())
        return Converted(sound, limiting_gain(peak), rate, own_f0)

    def _check(self, song: Samples, options: ConvertOptions, curve: PitchCurve | None) -> None:
        n_speakers = self._synthesizer.config.n_speakers
        if options.speaker_id >= n_speakers:
            raise ConfigError(
                f"The voice has no speaker {options.speaker_id}; choose a speaker_id from 0 to {n_speakers - 1}."
            )
        if curve is None:
            return
        if not self._synthesizer.config.has_f0:
            raise ConfigError("The voice uses no F0, so an F0 file cannot change it. Leave the file out.")
        begin, end = float(curve.times.min()), len(song) / ANALYSIS_RATE
        if begin >= end:
            raise ConfigError(
                f"The F0 file begins at {begin:.2f} s, but the recording ends at {end:.2f} s. "
                "Give the file that belongs to this recording."
            )

    def _extractor(self, options: ConvertOptions) -> ExactExtractor:
        device = self.device.device
        dtype = analysis_dtype(options.precision, device)
        return self._loaded.pitch(options.pitch_method, device, options.crepe_hop_length, dtype)

    def _estimate_melody(
        self, padded: Samples, options: ConvertOptions, curve: PitchCurve | None = None
    ) -> Melody | None:
        if not self._synthesizer.config.has_f0:
            return None
        extractor = self._extractor(options)
        f0 = estimate(padded, lambda audio: self._loaded.analysed(audio, f"F0 by {extractor.recipe}", extractor))
        fill = options.interpolate_unvoiced or self._interpolates
        return sing(f0, options, curve, self._limits.pad_frames, fill=fill)

    def _render_all(
        self, padded: Samples, melody: Melody | None, chunks: list[Chunk], options: ConvertOptions, progress: Progress
    ) -> Iterator[tuple[Chunk, Floats]]:
        """Convert one piece after the other; yields what each contributes to the song."""
        rng = torch.Generator(self.device.device).manual_seed(options.seed)
        pad_frames = self._limits.pad_frames
        for i, chunk in enumerate(chunks):
            progress(i + 1, len(chunks) + 1, "converting")
            audio = chunk.padded_audio(padded, pad_frames).astype(np.float32)
            part = melody.part(chunk.padded_frames(pad_frames)) if melody else None
            rendered = self._render(audio, part, chunk.own_frames(pad_frames), options, rng)
            give_back()
            yield chunk, rendered
        progress(len(chunks) + 1, len(chunks) + 1, "converting")

    def _render(
        self, audio: Floats, melody: Melody | None, own: tuple[int, int], options: ConvertOptions, rng: torch.Generator
    ) -> Floats:
        """One piece (T,) at 16 kHz and its F0 -> samples of its `own` frames, (first, last + 1)."""
        content = self._content(audio, melody, options)  # [F, C]
        assert own[1] <= len(content), "the padding is shorter than what the encoder dropped"
        device = self.device.device
        batch = torch.from_numpy(content).to(device)[None]  # [1, F, C]
        bins = f0 = None
        if melody is not None:
            bins = torch.from_numpy(melody.bins[: len(content)]).to(device)[None]  # [1, F]
            f0 = torch.from_numpy(melody.f0[: len(content)]).to(device)[None]  # [1, F]
        samples = self._synthesizer_in(options.precision).infer(
            batch,
            torch.tensor([len(content)], device=device),
            torch.tensor([options.speaker_id], device=device),
            bins,
            f0,
            rng,
            self._temperature,
            own,
        )
        result: Floats = samples[0, 0].cpu().numpy()
        return result

    def _synthesizer_in(self, precision: str) -> Synthesizer:
        """The synthesizer with its generator in the wanted number type; the one before is not kept beside it."""
        device = self.device.device
        generator = generator_dtype(precision, device, bears_int8=self._bears_int8)
        dtypes = generator, analysis_dtype(precision, device)
        if dtypes == self._dtypes:
            return self._synthesizer
        if self._dtypes != IN_FLOAT32:
            self._synthesizer, self._dtypes = self._in_float32(), IN_FLOAT32
        if dtypes != IN_FLOAT32:
            made = self._synthesizer.copy_in(*dtypes)
            if precision == "auto" and generator == torch.int8:
                agreement = agreement_in_db(self._synthesizer, made)
                if agreement < LEAST_AGREEMENT:
                    logger.info("in eight bits the voice only agrees to %.0f dB; it is not computed so", agreement)
                    self._bears_int8 = False
                    return self._synthesizer_in(precision)
            self._synthesizer, self._dtypes = made, dtypes
            give_back()
        return self._synthesizer

    def _content(self, audio: Floats, melody: Melody | None, options: ConvertOptions) -> Floats:
        """Content features of (T,) at 16 kHz, with retrieval and protection, at 100 frames/s: (F, C)."""
        dtype = encoder_dtype(self._family, analysis_dtype(options.precision, self.device.device))
        recipe = f"content by {self._encoder_id} in {dtype}"
        own = self._loaded.analysed(audio, recipe, self._encoder_in(dtype))  # [N, C]
        frames = len(melody.f0) if melody else len(audio) // HOP_LENGTH
        if self.index is None or options.index_rate == 0:
            return to_pitch_rate(own, frames)
        content = to_pitch_rate(blend_retrieved(own, self.index.search(own), options.index_rate), frames)
        if melody is None or options.protect >= PROTECT_OFF:
            return content
        voiced_f0 = melody.voiced_f0[: len(content)]
        return protect_consonants(content, to_pitch_rate(own, frames), voiced_f0, options.protect)


def _finite(block: Floats) -> Floats:
    if not np.isfinite(block).all():
        raise CheckpointError("The voice model computes numbers that are not finite: it is damaged. Get it again.")
    return block


@torch.inference_mode(False)  # else what is folded would be no parameters
def _read_again(path: Path, device: Device) -> Synthesizer:
    """A voice's synthesizer in float32, ready to convert."""
    return load_synthesizer(read_voice_model(path), str(path)).fold_weight_norm().to(device.device)


def recorded_encoder(voice: VoiceModel) -> ContentEncoderId | None:
    """The content encoder that a voice says it was trained on, here or in Applio; None if it says nothing."""
    if voice.content_encoder is not None:
        return voice.content_encoder._replace(name=canonical_name(voice.content_encoder.name))
    foreign = voice.extra.get("embedder_model")
    return ContentEncoderId(canonical_name(foreign), "") if isinstance(foreign, str) and foreign else None


def check_encoder(voice: VoiceModel, encoder: ContentEncoder, where: str) -> None:
    """CheckpointError if the voice says that it was trained on another content encoder than this one."""
    wanted = recorded_encoder(voice)
    if wanted is None:
        return
    if wanted.name != encoder.name:
        raise CheckpointError(
            f"{where} was trained on the content encoder {wanted.name!r}, but the one installed for the family "
            f"{voice.family} is {encoder.name!r}. Install {wanted.name!r}, or train the voice again."
        )
    if wanted.sha256 and wanted.sha256 != encoder.sha256:
        raise CheckpointError(
            f"{where} was trained on another version of the content encoder {wanted.name!r} (SHA-256 "
            f"{wanted.sha256[:12]}..., installed is {encoder.sha256[:12]}...). Install that version, or train again."
        )
