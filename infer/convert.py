"""VoiceConverter: load a voice once, convert many recordings with it."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from infer.chunking import FRAME_RATE, HOP_LENGTH, Chunk, ChunkLimits, join, pad_audio, plan_chunks
from infer.features import PROTECT_OFF, blend_retrieved, protect_consonants, to_pitch_rate
from infer.loaded import Loaded
from infer.loudness import follow_envelope, limit_peak
from infer.options import ConvertOptions
from lib.audio import ANALYSIS_RATE, highpass, resample, resampled_length
from lib.checkpoint import ContentEncoderId, VoiceModel, load_synthesizer, read_voice_model
from lib.content import ContentEncoder, canonical_name
from lib.devices import Device, choose_device, generator_dtype
from lib.errors import AudioError, CheckpointError, ConfigError
from lib.index import FeatureIndex
from lib.models.synthesizer import Synthesizer
from lib.pitch import SILENCE_PEAK, ExactExtractor
from lib.pitch.curve_file import PitchCurve
from lib.pitch.scale import fill_unvoiced, hz_to_bins, median_filter, shift_semitones, splice_curve
from lib.progress import Progress, no_progress

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

SHORTEST_SECONDS = 0.05  # shorter recordings hold nothing that could be called a voice
INPUT_PEAK = 0.95  # louder input is brought down to this


@dataclass(frozen=True)
class _Pitch:
    """F0 of a song or a part of it, at 100 frames/s."""

    f0: Floats  # (F,) Hz, transposed; 0 = unvoiced, unless filled
    voiced_f0: Floats  # (F,) the same before unvoiced frames are filled
    bins: Ints  # (F,) 1..255

    def part(self, frames: slice) -> "_Pitch":
        """The same for some of the frames."""
        return _Pitch(self.f0[frames], self.voiced_f0[frames], self.bins[frames])


class VoiceConverter:
    """A voice, ready to convert: synthesizer, content encoder and perhaps an index, on one device.

    Nothing changes after construction, so one converter may serve one conversion after the other with different
    options.
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
        self._synthesizers = {torch.float32: self._synthesizer}
        self._encoder = encoder
        self._encoder_id = f"{encoder.name} {encoder.sha256}"
        self._limits = limits or ChunkLimits()
        self._temperature = temperature
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
        return cls.from_voice(read_voice_model(model), index, device, where=str(model))

    @classmethod
    def from_voice(
        cls,
        voice: VoiceModel,
        index: Path | None = None,
        device: Device | None = None,
        where: str = "The voice model",
        loaded: Loaded | None = None,
    ) -> "VoiceConverter":
        """Make a voice that was read ready to convert; `where` names it in messages."""
        device, loaded = device or choose_device(), loaded or Loaded()
        synthesizer = load_synthesizer(voice, where).fold_weight_norm()
        wanted = recorded_encoder(voice)
        encoder = loaded.encoder(voice.family, device.device, wanted.name if wanted else None)
        check_encoder(voice, encoder, where)
        logger.info("%s: family %s, %s; device: %s (%s)", where, voice.family, voice.info, device.device, device.reason)
        converter = cls(synthesizer, encoder, loaded.index(index) if index else None, device, loaded=loaded)
        converter._interpolates = bool(voice.extra.get("interpolate_unvoiced"))
        return converter

    @property
    def n_bytes(self) -> int:
        """Memory of the synthesizer, with a copy of its generator in a shorter number type."""
        return sum(weight.nbytes for weight in self._synthesizer.parameters()) * 3 // 2

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

    @torch.inference_mode()
    def convert_with_f0(
        self, audio: Floats, options: ConvertOptions, progress: Progress = no_progress, curve: PitchCurve | None = None
    ) -> tuple[Floats, Floats | None]:
        """Convert as `convert` does, and return the F0 that was sung too: (T // 160,) Hz, 0 where unvoiced.

        `curve` replaces the F0 of the part of the recording it covers. It says what is sung: neither pitch_shift nor
        filter_radius change it. The F0 is None for a voice that uses none, for which a curve is a ConfigError.
        """
        self._check(audio, options)
        self._check_curve(audio, curve)
        loud = float(np.abs(audio).max()) / INPUT_PEAK
        filtered = highpass(audio / loud if loud > 1 else audio).astype(np.float32)
        chunks = plan_chunks(filtered, self._limits)
        padded = pad_audio(filtered, self._limits.pad_frames)
        progress(0, len(chunks) + 1, "estimating F0")
        pitch = self._estimate_pitch(padded, options, curve)
        hop_length = self._synthesizer.config.hop_length
        n_samples = resampled_length(len(audio), ANALYSIS_RATE, self.sample_rate)
        parts = self._render_all(padded, pitch, chunks, options, progress)
        converted = join(parts, n_samples, hop_length)
        if not np.isfinite(converted).all():
            raise CheckpointError("The voice model computes numbers that are not finite: it is damaged. Get it again.")
        converted = follow_envelope(converted, self.sample_rate, filtered, ANALYSIS_RATE, options.rms_mix_rate)
        rate = self.output_rate(options)
        if rate != self.sample_rate:
            converted = resample(converted, self.sample_rate, rate)
            converted = converted[: resampled_length(len(audio), ANALYSIS_RATE, rate)]
        own_f0 = None if pitch is None else pitch.voiced_f0[self._limits.pad_frames :][: len(audio) // HOP_LENGTH]
        return limit_peak(converted), own_f0

    def _check(self, audio: Floats, options: ConvertOptions) -> None:
        seconds = len(audio) / ANALYSIS_RATE
        if audio.ndim != 1 or not np.isfinite(audio).all():
            raise AudioError(f"Only finite mono audio of shape (T,) can be converted, not {audio.shape}.")
        if seconds < SHORTEST_SECONDS:
            raise AudioError(f"It is {seconds:.3f} s long; give a recording of at least {SHORTEST_SECONDS} s.")
        if np.abs(audio).max() < SILENCE_PEAK:
            raise AudioError("It holds only digital silence; there is no voice to convert. Give another recording.")
        n_speakers = self._synthesizer.config.n_speakers
        if options.speaker_id >= n_speakers:
            raise ConfigError(
                f"The voice has no speaker {options.speaker_id}; choose a speaker_id from 0 to {n_speakers - 1}."
            )

    def _check_curve(self, audio: Floats, curve: PitchCurve | None) -> None:
        if curve is None:
            return
        if not self._synthesizer.config.has_f0:
            raise ConfigError("The voice uses no F0, so an F0 file cannot change it. Leave the file out.")
        begin, end = float(curve.times.min()), len(audio) / ANALYSIS_RATE
        if begin >= end:
            raise ConfigError(
                f"The F0 file begins at {begin:.2f} s, but the recording ends at {end:.2f} s. "
                "Give the file that belongs to this recording."
            )

    def _extractor(self, options: ConvertOptions) -> ExactExtractor:
        return self._loaded.pitch(options.pitch_method, self.device.device, options.crepe_hop_length)

    def _estimate_pitch(
        self, padded: Floats, options: ConvertOptions, curve: PitchCurve | None = None
    ) -> _Pitch | None:
        """F0 of the whole padded song at once, so that it does not depend on where the song is cut."""
        if not self._synthesizer.config.has_f0:
            return None
        extractor = self._extractor(options)
        f0 = self._loaded.analysed(padded, f"F0 by {extractor.recipe}", extractor)
        estimated = median_filter(f0, options.filter_radius)
        voiced_f0 = shift_semitones(estimated, options.pitch_shift)
        if curve is not None:
            song = slice(self._limits.pad_frames, len(voiced_f0) - self._limits.pad_frames)
            voiced_f0[song] = splice_curve(voiced_f0[song], curve.times, curve.values)
        fill = options.interpolate_unvoiced or self._interpolates
        f0 = fill_unvoiced(voiced_f0) if fill else voiced_f0
        return _Pitch(f0, voiced_f0, hz_to_bins(f0))

    def _render_all(
        self, padded: Floats, pitch: _Pitch | None, chunks: list[Chunk], options: ConvertOptions, progress: Progress
    ) -> Iterator[tuple[Chunk, Floats]]:
        """Convert one piece after the other; yields what each contributes to the song."""
        rng = torch.Generator(self.device.device).manual_seed(options.seed)
        pad_frames = self._limits.pad_frames
        for i, chunk in enumerate(chunks):
            progress(i + 1, len(chunks) + 1, "converting")
            audio = chunk.padded_audio(padded, pad_frames)
            part = pitch.part(chunk.padded_frames(pad_frames)) if pitch else None
            yield chunk, self._render(audio, part, chunk.own_frames(pad_frames), options, rng)
        progress(len(chunks) + 1, len(chunks) + 1, "converting")

    def _render(
        self, audio: Floats, pitch: _Pitch | None, own: tuple[int, int], options: ConvertOptions, rng: torch.Generator
    ) -> Floats:
        """One piece (T,) at 16 kHz and its F0 -> samples of its `own` frames, (first, last + 1)."""
        content = self._content(audio, pitch, options)  # [F, C]
        assert own[1] <= len(content), "the padding is shorter than what the encoder dropped"
        device = self.device.device
        batch = torch.from_numpy(content).to(device)[None]  # [1, F, C]
        bins = f0 = None
        if pitch is not None:
            bins = torch.from_numpy(pitch.bins[: len(content)]).to(device)[None]  # [1, F]
            f0 = torch.from_numpy(pitch.f0[: len(content)]).to(device)[None]  # [1, F]
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
        dtype = generator_dtype(precision, self.device.device)
        if dtype not in self._synthesizers:
            self._synthesizers[dtype] = self._synthesizer.with_generator_in(dtype)
        return self._synthesizers[dtype]

    def _content(self, audio: Floats, pitch: _Pitch | None, options: ConvertOptions) -> Floats:
        """Content features of (T,) at 16 kHz, with retrieval and protection, at 100 frames/s: (F, C)."""
        own = self._loaded.analysed(audio, f"content by {self._encoder_id}", self._encoder)  # [N, C]
        frames = len(pitch.f0) if pitch else len(audio) // HOP_LENGTH
        if self.index is None or options.index_rate == 0:
            return to_pitch_rate(own, frames)
        content = to_pitch_rate(blend_retrieved(own, self.index.search(own), options.index_rate), frames)
        if pitch is None or options.protect >= PROTECT_OFF:
            return content
        return protect_consonants(content, to_pitch_rate(own, frames), pitch.voiced_f0[: len(content)], options.protect)


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
