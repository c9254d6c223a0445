"""Compare a conversion with its source: metrics, and a plot of the spectrograms with F0."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lib.audio import ANALYSIS_RATE
from lib.audio.decode import MonoChannel, list_recordings, load_audio, load_audio_native
from lib.audio.filters import resample
from lib.audio.mel import linear_spectrogram, log_mel
from lib.config import AudioConfig
from lib.files import replacing
from lib.pitch import PitchExtractor
from lib.typing import FloatArray

ENVELOPE = AudioConfig(sample_rate=ANALYSIS_RATE, n_fft=1024, hop_length=160, n_mels=80, fmin=80.0, fmax=7600.0)
DB_PER_NEPER = 20 / np.log(10)
ACTIVE_DB = 40.0  # frames this much below the loudest one count as pauses
FULL_SCALE = 0.999


@dataclass(frozen=True)
class Comparison:
    """Metrics of one conversion; F0 and envelopes are measured at 16 kHz."""

    seconds_in: float
    seconds_out: float
    f0_correlation: float  # of log F0 over frames voiced in both; NaN when there are none
    median_cents: float  # median |F0 error| after the requested transposition, over the same frames
    voicing_agreement: float  # share of frames on which both are voiced or both are not
    to_source_db: float  # distance of the long-term mel envelopes, output to source
    to_target_db: float | None  # and output to recordings of the target voice
    peak: float  # of the output; 1.0 is full scale
    clipped: int  # samples of the output at full scale
    finite: bool

    def __str__(self) -> str:
        target = "" if self.to_target_db is None else f", to the voice {self.to_target_db:.1f} dB"
        return (
            f"{self.seconds_in:.3f} s in, {self.seconds_out:.3f} s out; F0 correlation {self.f0_correlation:.3f}, "
            f"median error {self.median_cents:.0f} cents, voicing agreement {self.voicing_agreement:.3f}; "
            f"mel envelope to the source {self.to_source_db:.1f} dB{target}; "
            f"peak {self.peak:.2f}, {self.clipped} samples clipped, {'all' if self.finite else 'NOT all'} finite"
        )


def compare(
    source: FloatArray,
    output: FloatArray,
    pitch: PitchExtractor,
    *,
    pitch_shift: float = 0.0,
    target: Sequence[FloatArray] = (),
    seconds: tuple[float, float] | None = None,
) -> Comparison:
    """Compare source and output, both (T,) at 16 kHz, and recordings of the target voice at the same rate.

    `pitch_shift` is that of the conversion, in semitones. `seconds` are the exact lengths of input and output, because
    resampling to 16 kHz rounds them.
    """
    f0_in, f0_out = pitch(source), pitch(output)
    frames = min(len(f0_in), len(f0_out))
    correlation, cents = _compare_f0(f0_in[:frames] * 2 ** (pitch_shift / 12), f0_out[:frames])
    envelope = mel_envelope([output])
    return Comparison(
        seconds_in=seconds[0] if seconds else len(source) / ANALYSIS_RATE,
        seconds_out=seconds[1] if seconds else len(output) / ANALYSIS_RATE,
        f0_correlation=correlation,
        median_cents=cents,
        voicing_agreement=float(np.mean((f0_in[:frames] > 0) == (f0_out[:frames] > 0))),
        to_source_db=envelope_distance(envelope, mel_envelope([source])),
        to_target_db=envelope_distance(envelope, mel_envelope(target)) if target else None,
        peak=float(np.abs(output).max(initial=0.0)),
        clipped=int((np.abs(output) >= FULL_SCALE).sum()),
        finite=bool(np.isfinite(output).all()),
    )


def compare_files(
    source: Path,
    output: Path,
    pitch: PitchExtractor,
    *,
    pitch_shift: float = 0.0,
    target: Path | None = None,
    channel: MonoChannel = "mix",
) -> tuple[Comparison, Path]:
    """Compare two files; `target` is a recording of the voice, or a folder of recordings.

    Returns the metrics and the path of the plot, a PNG next to the output. Raises MissingFileError if a file does not
    exist, and AudioError if one cannot be decoded.
    """
    decoded = [load_audio_native(source, channel), load_audio_native(output)]
    a, b = (resample(audio, rate, ANALYSIS_RATE) for audio, rate in decoded)
    seconds = (len(decoded[0][0]) / decoded[0][1], len(decoded[1][0]) / decoded[1][1])
    references = [] if target is None else list_recordings(target) if target.is_dir() else [target]
    voice = [load_audio(path, ANALYSIS_RATE) for path in references]
    picture = output.with_suffix(".png")
    draw(picture, a, b, pitch)
    return compare(a, b, pitch, pitch_shift=pitch_shift, target=voice, seconds=seconds), picture


def _compare_f0(wanted: FloatArray, got: FloatArray) -> tuple[float, float]:
    """Correlation of log F0 and median |error| in cents over the frames voiced in both (F,)."""
    both = (wanted > 0) & (got > 0)
    if both.sum() < 2:
        return float("nan"), float("nan")
    a, b = (1200 * np.log2(f0[both]) for f0 in (wanted, got))
    correlation = float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else float("nan")
    return correlation, float(np.median(np.abs(a - b)))


def mel_envelope(recordings: Sequence[FloatArray]) -> FloatArray:
    """Return the mean log-mel spectrum (80,) in dB of the active frames of recordings (T,) at 16 kHz.

    Its own mean is subtracted.
    """
    frames = []
    for audio in recordings:
        if len(audio) >= ENVELOPE.n_fft:
            mel = DB_PER_NEPER * log_mel(torch.from_numpy(audio)[None], ENVELOPE)[0].numpy()  # [80, F]
            loudness = mel.mean(0)
            frames.append(mel[:, loudness > loudness.max() - ACTIVE_DB])
    if not frames:
        return np.full(ENVELOPE.n_mels, np.nan, np.float32)
    mean: FloatArray = np.concatenate(frames, 1).mean(1)
    centred: FloatArray = mean - mean.mean()
    return centred


def envelope_distance(a: FloatArray, b: FloatArray) -> float:
    """Return the root-mean-square difference of two mel envelopes in dB."""
    return float(np.sqrt(np.mean(np.square(a - b))))


def draw(
    path: Path,
    source: FloatArray,
    output: FloatArray,
    pitch: PitchExtractor,
    titles: tuple[str, str] = ("source", "converted"),
) -> None:
    """Write a PNG of the spectrograms of source and output, (T,) at 16 kHz, up to 8 kHz, with their F0 curves."""
    from matplotlib.figure import Figure  # no pyplot: it would keep a global state

    figure = Figure(figsize=(8, 6), layout="constrained")
    for axes, title, audio in zip(figure.subplots(2, 1), titles, (source, output), strict=True):
        spec = linear_spectrogram(torch.from_numpy(audio)[None], 1024, 160)[0].numpy()  # [513, F]
        extent = (0.0, len(audio) / ANALYSIS_RATE, 0.0, ANALYSIS_RATE / 2000)
        level = 20 * np.log10(spec)
        axes.imshow(level, origin="lower", aspect="auto", extent=extent, vmin=level.max() - 80, cmap="magma")
        axes.set_title(title)
        axes.set_xlabel("s")
        axes.set_ylabel("kHz")
        f0 = pitch(audio)
        curve = axes.twinx()
        curve.plot(np.arange(len(f0)) / 100, np.where(f0 > 0, f0, np.nan), color="cyan", linewidth=1.5)
        curve.set_ylim(0, max(600.0, float(f0.max(initial=0)) * 1.1))
        curve.set_ylabel("F0, Hz", color="teal")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
