"""Encode recordings in any format and verify the written file.

Lengths are exact: a resampled signal has `resampled_length` samples, and each format decodes to the length that was
written (at the codec's rate; see `save_blocks`). Audio is float32 in [-1, 1], mono (T,) or with two channels (2, T), as
one array or a sequence of blocks.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lib.audio import AUDIO_FORMATS
from lib.audio.decode import Recording
from lib.audio.filters import resample_blocks
from lib.audio.tags import Tags, add_tags
from lib.errors import AudioError, ConfigError
from lib.files import replacing
from lib.progress import Progress, no_progress, part_of, pieces
from lib.typing import FloatArray

BLOCK = 1 << 20  # samples encoded at a time
MIN_LOSSY = 64  # samples; a shorter MP3 decodes to a few more
PEAK_AUDIBLE = 1e-3  # a signal with a higher peak must not decode to silence


@dataclass(frozen=True)
class _Encoder:
    """How PyAV writes one format; `rates` in Hz, ascending, () = any."""

    codec: str
    bit_rate: int  # bit/s, mono; with two channels STEREO_BITS times as much
    rates: tuple[int, ...]


_MP3 = _Encoder("libmp3lame", 160_000, (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000))
_AAC = _Encoder("aac", 160_000, (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000))
_OPUS = _Encoder("libopus", 96_000, (48000,))  # decodes to 48 kHz at any input rate
_ENCODERS: dict[str, _Encoder] = {".mp3": _MP3, ".ogg": _OPUS, ".opus": _OPUS, ".m4a": _AAC}
STEREO_BITS = 1.6
BITS_PER_SAMPLE = 6  # at most, of both channels together: low rates have no use for more
LAME_SCALES = ((176_000, 0.95), (208_000, 0.97), (240_000, 0.98))  # LAME lowers the level by these below a bit rate
Subtype = Literal["PCM_16", "PCM_24", "FLOAT"]  # 16-bit, 24-bit, 32-bit float
_TAGGED: dict[tuple[str, Subtype], tuple[str, str]] = {  # codec and sample format of FFmpeg for PCM with tags
    (".wav", "PCM_16"): ("pcm_s16le", "s16"),
    (".wav", "PCM_24"): ("pcm_s24le", "s32"),
    (".wav", "FLOAT"): ("pcm_f32le", "flt"),
    (".flac", "PCM_16"): ("flac", "s16"),
    (".flac", "PCM_24"): ("flac", "s32"),
}


def save_audio(path: Path, audio: npt.NDArray[Any], sample_rate: int, *, subtype: Subtype = "PCM_16") -> None:
    """Write mono audio (T,) to `path`; see `save_blocks`."""
    audio = np.asarray(audio, dtype=np.float32)
    if audio.ndim != 1 or len(audio) == 0:
        raise AudioError(
            "Cannot write {path}: there is no mono audio to write (shape {shape}).", path=path, shape=audio.shape
        )
    save_blocks(path, array_blocks(audio), sample_rate, subtype)


def array_blocks(audio: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield audio (T,) or (C, T) in blocks of BLOCK samples."""
    for start in range(0, audio.shape[-1], BLOCK):
        yield audio[..., start : start + BLOCK]


def save_array(
    path: Path,
    audio: npt.NDArray[Any],
    sample_rate: int,
    subtype: Subtype = "PCM_16",
    tags: Tags | None = None,
    progress: Progress = no_progress,
) -> None:
    """Write (C, T), C = 1 or 2, to `path`; see `save_blocks`."""
    signal = audio[0] if len(audio) == 1 else audio
    parts = (signal[..., piece] for piece in pieces(audio.shape[1], sample_rate, part_of(progress, 0, 2)))
    save_blocks(path, parts, sample_rate, subtype, tags, part_of(progress, 1, 2))


def source_subtype(path: Path) -> Subtype:
    """Return the libsndfile subtype for a result with the resolution of `path`: PCM_16, PCM_24 or FLOAT.

    It is PCM_16 if libsndfile cannot read the file.
    """
    import soundfile

    try:
        subtype = soundfile.info(str(path)).subtype
    except soundfile.LibsndfileError:
        return "PCM_16"
    if subtype in ("FLOAT", "DOUBLE"):
        return "FLOAT"
    return "PCM_24" if subtype in ("PCM_24", "PCM_32") else "PCM_16"


def save_blocks(
    path: Path,
    blocks: Iterable[FloatArray],
    sample_rate: int,
    subtype: Subtype = "PCM_16",
    tags: Tags | None = None,
    verifying: Progress = no_progress,
) -> None:
    """Write mono blocks (N,) or stereo blocks (2, N) to `path`, atomically, and verify the file by decoding it.

    The suffix of `path` determines the format. WAV is 16-bit, 24-bit or 32-bit float; FLAC is 16-bit or 24-bit ("FLOAT"
    gives 24-bit); .ogg and .opus are Opus; .m4a is AAC. `tags` are written into every format, cover art into every
    format except WAV. Formats with fixed sample rates (Opus: 48 kHz; MP3, AAC: the standard rates) use the next higher
    rate, and decode to `resampled_length` samples at that rate. Values outside [-1, 1] are clipped except in float WAV.

    Raises ConfigError if the suffix is unknown, AudioError if the audio cannot be used, and WriteError if the file
    cannot be written; in each case `path` is left unchanged.
    """
    suffix = path.suffix.lower()
    if suffix.removeprefix(".") not in AUDIO_FORMATS:
        raise ConfigError(
            "{name} has no known audio suffix; choose one of .{suffixes}.",
            name=path.name,
            suffixes=", .".join(AUDIO_FORMATS),
        )
    encoder, (blocks, channels) = _ENCODERS.get(suffix), _counted(_finite(path, blocks))
    if subtype == "FLOAT" and suffix == ".flac":
        subtype = "PCM_24"
    if subtype != "FLOAT" or suffix != ".wav":
        blocks = (np.clip(block, -1.0, 1.0) for block in blocks)
    if encoder is not None:
        rate = next((rate for rate in encoder.rates if rate >= sample_rate), encoder.rates[-1])
        blocks = (np.clip(block, -1.0, 1.0) for block in resample_blocks(blocks, sample_rate, rate))
        sample_rate = rate
    written, tags = _Written(path, blocks, channels), tags or Tags()
    with replacing(path) as temporary:
        if encoder is None and not tags:
            _write_pcm(temporary, written.blocks(), sample_rate, channels, subtype)
        else:
            codec, sample_format = (encoder.codec, None) if encoder else _TAGGED[suffix, subtype]
            stream = _Stream(codec, sample_format, channels, sample_rate, encoder.bit_rate if encoder else 0)
            _write_encoded(temporary, written.blocks(), stream, tags)
        written.verify(temporary, sample_rate, verifying)


def _finite(path: Path, blocks: Iterable[FloatArray]) -> Iterator[FloatArray]:
    for block in blocks:
        if not np.isfinite(block).all():
            raise AudioError("Cannot write {path}: the audio contains non-finite samples (NaN or infinity).", path=path)
        yield block


def _counted(blocks: Iterable[FloatArray]) -> tuple[Iterable[FloatArray], int]:
    """The blocks, and their number of channels."""
    remaining = iter(blocks)
    first = next(remaining, np.zeros(0, np.float32))
    return chain([first], remaining), 1 if first.ndim == 1 else len(first)


class _Written:
    """Blocks that are being written to a file; `verify` compares their length and peak with the decoded file."""

    def __init__(self, path: Path, blocks: Iterable[FloatArray], channels: int) -> None:
        self._path = path
        self._channels = channels
        self._blocks = blocks
        self._samples, self._peak = 0, 0.0

    def blocks(self) -> Iterator[FloatArray]:
        """The blocks."""
        for block in self._blocks:
            self._samples += block.shape[-1]
            self._peak = max(self._peak, _peak(block))
            yield block

    def verify(self, written: Path, sample_rate: int, progress: Progress) -> None:
        """Decode the file and compare length, rate and level with the blocks. Raises AudioError if they differ."""
        recording = Recording(written, "mix" if self._channels == 1 else "stereo")
        peak = 0.0
        for block in recording.blocks:
            progress(min(recording.samples, self._samples), self._samples, "")
            peak = max(peak, _peak(block))
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
                "Writing {path} failed: the written file reads back as silence. Try another format.", path=self._path
            )


def _peak(block: FloatArray) -> float:
    return max(float(block.max()), -float(block.min())) if block.size else 0.0


def _write_pcm(path: Path, blocks: Iterable[FloatArray], sample_rate: int, channels: int, subtype: str) -> None:
    import soundfile

    try:
        with soundfile.SoundFile(str(path), "w", sample_rate, channels, subtype) as file:
            for block in blocks:
                file.write(block.T)
    except soundfile.LibsndfileError as error:
        raise OSError(error.error_string) from error


@dataclass(frozen=True)
class _Stream:
    """The audio stream to write."""

    codec: str
    sample_format: str | None  # None: the codec's own
    channels: int
    sample_rate: int  # Hz
    bit_rate: int  # bit/s, mono; 0 for PCM

    @property
    def layout(self) -> str:
        return "mono" if self.channels == 1 else "stereo"

    @property
    def total_bits(self) -> int:
        """Bit rate of all channels in bit/s; 0 for PCM."""
        most = self.bit_rate * (STEREO_BITS if self.channels > 1 else 1)
        return int(min(most, BITS_PER_SAMPLE * self.sample_rate))

    @property
    def gain(self) -> np.float32:
        """Gain to apply before encoding so that the decoded file has the same level as the blocks."""
        scales = LAME_SCALES if self.codec == _MP3.codec else ()
        return np.float32(1 / next((scale for below, scale in scales if self.total_bits < below), 1.0))


def _write_encoded(path: Path, blocks: Iterable[FloatArray], wanted: _Stream, tags: Tags) -> None:
    import av

    rate, is_mp4 = wanted.sample_rate, wanted.codec == _AAC.codec
    # MP4 states the length in its own clock, by default milliseconds; only in samples is it exact. The format "ipod"
    # of the suffix .m4a is MP4 without covers.
    options = {"movie_timescale": str(rate)} if is_mp4 else {}
    kind = "mp4" if is_mp4 and tags.cover else None
    try:
        with av.open(str(path.resolve()), "w", format=kind, options=options) as container:
            stream = container.add_stream(wanted.codec, rate=rate, layout=wanted.layout)
            if wanted.sample_format:
                stream.codec_context.format = wanted.sample_format
            if wanted.total_bits:
                stream.bit_rate = wanted.total_bits
            cover = add_tags(container, tags, path.suffix.lower())
            if cover is not None:
                container.mux(cover)
            for frame in _encoder_frames(stream.codec_context, blocks, wanted):
                container.mux(stream.encode(frame))
    except av.error.FFmpegError as error:
        raise OSError(error.strerror) from error


def _encoder_frames(context: Any, blocks: Iterable[FloatArray], wanted: _Stream) -> Iterator[Any]:
    """Yield blocks (N,) or (2, N) as frames of the encoder's size and format, and None at the end to flush."""
    import av

    layout = wanted.layout
    converter = av.AudioResampler(context.format.name, layout, wanted.sample_rate, frame_size=context.frame_size)
    start = 0
    for block in blocks:
        if block.size == 0:
            continue
        planes = np.ascontiguousarray(np.atleast_2d(block if wanted.gain == 1 else block * wanted.gain))
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = wanted.sample_rate, start
        start += block.shape[-1]
        yield from converter.resample(frame)
    yield from converter.resample(None)
    yield None
