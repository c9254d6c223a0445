"""Writing recordings: encode any format and verify what was written.

Lengths are exact: a resampled signal has `resampled_length` samples, and every format written here decodes to the
length that was written (at the codec's rate; see `save_blocks`). Audio is mono float32 in [-1, 1], a whole array or a
sequence of blocks.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lib.audio.decode import (
    Recording,
)
from lib.audio.filters import (
    resample_blocks,
)
from lib.errors import AudioError, ConfigError
from lib.files import replacing
from lib.typing import FloatArray

BLOCK = 1 << 20  # samples encoded at a time
MIN_LOSSY = 64  # samples; a shorter MP3 decodes to a few more
PEAK_AUDIBLE = 1e-3  # a signal with a higher peak must not decode to silence


@dataclass(frozen=True)
class _Encoder:
    """How PyAV writes one format; `rates` in Hz, ascending, () = any."""

    codec: str
    bit_rate: int  # bit/s, mono
    rates: tuple[int, ...]


_MP3 = _Encoder("libmp3lame", 160_000, (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000))
_AAC = _Encoder("aac", 160_000, (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000))
_OPUS = _Encoder("libopus", 96_000, (48000,))  # decodes to 48 kHz at any input rate
_ENCODERS: dict[str, _Encoder] = {".mp3": _MP3, ".ogg": _OPUS, ".opus": _OPUS, ".m4a": _AAC}
AUDIO_FORMATS = ("wav", "flac", "mp3", "ogg", "opus", "m4a")  # what save_audio writes, without the dot


def save_audio(
    path: Path, audio: npt.NDArray[Any], sample_rate: int, *, subtype: Literal["PCM_16", "FLOAT"] = "PCM_16"
) -> None:
    """Write mono (T,) to `path`, see `save_blocks`."""
    audio = np.asarray(audio, dtype=np.float32)
    if audio.ndim != 1 or len(audio) == 0:
        raise AudioError(
            "Cannot write {path}: there is no mono audio to write (shape {shape}).", path=path, shape=audio.shape
        )
    save_blocks(path, (audio[start : start + BLOCK] for start in range(0, len(audio), BLOCK)), sample_rate, subtype)


def save_blocks(
    path: Path, blocks: Iterable[FloatArray], sample_rate: int, subtype: Literal["PCM_16", "FLOAT"] = "PCM_16"
) -> None:
    """Write mono blocks (N,) to `path` in the format its suffix names, atomically, and verify it by decoding it.

    WAV is 16-bit or, with subtype "FLOAT", 32-bit float; FLAC is 16-bit; .ogg and .opus are Opus; .m4a is AAC. Formats
    with fixed rates (Opus: 48 kHz; MP3, AAC: the usual ones) get the next higher one, and decode to
    `resampled_length` samples there. Values outside [-1, 1] are clipped except in float WAV. Raises ConfigError for
    an unknown suffix, AudioError for unusable audio, WriteError for a failed write; then `path` is as it was.
    """
    suffix = path.suffix.lower()
    if suffix.removeprefix(".") not in AUDIO_FORMATS:
        raise ConfigError(
            "{name} has no known audio suffix; choose one of .{suffixes}.",
            name=path.name,
            suffixes=", .".join(AUDIO_FORMATS),
        )
    encoder, blocks = _ENCODERS.get(suffix), _finite(path, blocks)
    if subtype != "FLOAT" or suffix != ".wav":
        blocks = (np.clip(block, -1.0, 1.0) for block in blocks)
    if encoder is not None:
        rate = next((rate for rate in encoder.rates if rate >= sample_rate), encoder.rates[-1])
        blocks = (np.clip(block, -1.0, 1.0) for block in resample_blocks(blocks, sample_rate, rate))
        sample_rate = rate
    written = _Written(path, blocks)
    with replacing(path) as temporary:
        if encoder is None:
            _write_pcm(temporary, written.blocks(), sample_rate, subtype if suffix == ".wav" else "PCM_16")
        else:
            _write_encoded(temporary, written.blocks(), sample_rate, encoder)
        written.verify(temporary, sample_rate)


def _finite(path: Path, blocks: Iterable[FloatArray]) -> Iterator[FloatArray]:
    for block in blocks:
        if not np.isfinite(block).all():
            raise AudioError(
                "Cannot write {path}: the audio contains samples that are not numbers (NaN or infinite).", path=path
            )
        yield block


class _Written:
    """Blocks on their way into a file, with their length and peak, which `verify` compares with the decoded file."""

    def __init__(self, path: Path, blocks: Iterable[FloatArray]) -> None:
        self._path = path
        self._blocks = blocks
        self._samples, self._peak = 0, 0.0

    def blocks(self) -> Iterator[FloatArray]:
        """The blocks."""
        for block in self._blocks:
            self._samples += len(block)
            self._peak = max(self._peak, _peak(block))
            yield block

    def verify(self, written: Path, sample_rate: int) -> None:
        """Decode the file and compare length, rate and level with the blocks. AudioError if they differ."""
        recording = Recording(written)
        peak = max(_peak(block) for block in recording.blocks)
        is_lossy = written.suffix.lower() in _ENCODERS
        longest = max(self._samples, MIN_LOSSY) if is_lossy else self._samples
        if recording.sample_rate != sample_rate or not self._samples <= recording.samples <= longest:
            raise AudioError(
                "Writing {path} failed: {samples} samples at {sample_rate} Hz were written but {read_samples} at "
                "{read_rate} Hz are read back. Try another format.",
                path=self._path,
                samples=self._samples,
                sample_rate=sample_rate,
                read_samples=recording.samples,
                read_rate=recording.sample_rate,
            )
        if self._peak > PEAK_AUDIBLE and peak < 0.1 * self._peak:
            raise AudioError(
                "Writing {path} failed: what was written is read back silent. Try another format.", path=self._path
            )


def _peak(block: FloatArray) -> float:
    return max(float(block.max()), -float(block.min())) if len(block) else 0.0


def _write_pcm(path: Path, blocks: Iterable[FloatArray], sample_rate: int, subtype: str) -> None:
    import soundfile

    try:
        with soundfile.SoundFile(str(path), "w", sample_rate, 1, subtype) as file:
            for block in blocks:
                file.write(block)
    except soundfile.LibsndfileError as error:
        raise OSError(error.error_string) from error


def _write_encoded(path: Path, blocks: Iterable[FloatArray], sample_rate: int, encoder: _Encoder) -> None:
    import av

    # MP4 states the length in its own clock, by default milliseconds; only in samples is it exact.
    options = {"movie_timescale": str(sample_rate)} if encoder is _AAC else {}
    try:
        with av.open(str(path.resolve()), "w", options=options) as container:
            stream = container.add_stream(encoder.codec, rate=sample_rate, layout="mono")
            stream.bit_rate = min(encoder.bit_rate, 6 * sample_rate)  # low rates have no use for more
            for frame in _encoder_frames(stream.codec_context, blocks, sample_rate):
                container.mux(stream.encode(frame))
    except av.error.FFmpegError as error:
        raise OSError(error.strerror) from error


def _encoder_frames(context: Any, blocks: Iterable[FloatArray], sample_rate: int) -> Iterator[Any]:
    """Yield blocks (N,) as frames of the size and sample format the encoder takes, and None at the end to flush it."""
    import av

    converter = av.AudioResampler(context.format.name, "mono", sample_rate, frame_size=context.frame_size)
    start = 0
    for block in blocks:
        if len(block) == 0:
            continue
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block[None]), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = sample_rate, start
        start += len(block)
        yield from converter.resample(frame)
    yield from converter.resample(None)
    yield None
