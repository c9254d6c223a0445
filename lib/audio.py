"""Recordings in and out: decode any container, resample, high-pass, write and verify; mono float32 in [-1, 1].

Clean lengths are a promise of this file: a resampled signal has exactly `resampled_length` samples, and every format
written here decodes to exactly the length that was written (at the codec's rate; see `save_audio`).
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lib.errors import AudioError, ConfigError, MissingFileError
from lib.files import replacing

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

ANALYSIS_RATE = 16_000  # Hz; F0 and content features are computed at this rate
HIGHPASS_CUTOFF = 48.0  # Hz; below it a voice has nothing but rumble and mains hum
HIGHPASS_ORDER = 5
BLOCK = 1 << 20  # samples filtered or encoded at a time
TRUNCATION_TOLERANCE = 0.1  # s a file may fall short of the duration in its header without being called cut off
SHORTEST_LOSSY = 64  # samples; an MP3 of fewer comes back a little longer
PEAK_AUDIBLE = 1e-3  # a signal that peaks above this must not come out silent


@dataclass(frozen=True)
class _Encoder:
    """How PyAV writes one format; `rates` in Hz, ascending, () = any."""

    codec: str
    bit_rate: int  # bit/s, mono
    rates: tuple[int, ...]


_MP3 = _Encoder("libmp3lame", 160_000, (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000))
_AAC = _Encoder("aac", 160_000, (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000))
_OPUS = _Encoder("libopus", 96_000, (48000,))  # decoders answer with 48 kHz whatever went in
_ENCODERS: dict[str, _Encoder] = {".mp3": _MP3, ".ogg": _OPUS, ".opus": _OPUS, ".m4a": _AAC}
AUDIO_FORMATS = ("wav", "flac", "mp3", "ogg", "opus", "m4a")  # what save_audio writes, without the dot

# A file with one of these suffixes is meant to be a recording: if it cannot be read, somebody wants to know.
_AUDIO_SUFFIXES = {
    ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".m4b", ".mp4", ".aac", ".ac3", ".aif", ".aifc", ".aiff",
    ".amr", ".caf", ".mka", ".rf64", ".w64", ".webm", ".wma",
}  # fmt: skip


def resampled_length(samples: int, from_rate: int, to_rate: int) -> int:
    """Number of samples after resampling: samples * to_rate / from_rate, rounded up."""
    return -(-samples * to_rate // from_rate)


def resample(audio: npt.NDArray[Any], from_rate: int, to_rate: int) -> Floats:
    """Resample (T,) with soxr's HQ filter to float32 of `resampled_length`; a new array even for equal rates."""
    audio = np.asarray(audio, dtype=np.float32)
    if from_rate == to_rate:
        return audio.copy()
    import soxr

    length = resampled_length(len(audio), from_rate, to_rate)
    out: Floats = soxr.resample(audio, from_rate, to_rate, quality="HQ")[:length]
    return np.pad(out, (0, length - len(out)))


def highpass(audio: npt.NDArray[Any]) -> Doubles:
    """Remove what lies below 48 Hz from (T,) at 16 kHz without shifting it in time; returns (T,) float64.

    Zero-phase: the filter runs forwards and backwards over an oddly extended signal. A clip shorter than the usual
    extension of 18 samples is extended by what it has.
    """
    from scipy.signal import filtfilt

    if len(audio) == 0:
        return np.zeros(0)
    b, a = _butterworth(ANALYSIS_RATE)
    padding = min(3 * max(len(a), len(b)), len(audio) - 1)  # samples
    out: Doubles = filtfilt(b, a, np.asarray(audio, dtype=np.float64), padlen=padding)
    return out


def highpass_causal(audio: npt.NDArray[Any], sample_rate: int) -> Floats:
    """Remove what lies below 48 Hz from (T,) in one forward pass, as training data are filtered; (T,) float32."""
    from scipy.signal import lfilter

    b, a = _butterworth(sample_rate)
    state = np.zeros(len(b) - 1)
    out = np.empty(len(audio), dtype=np.float32)
    for start in range(0, len(audio), BLOCK):  # in float64, but an hour of it would take more than a gigabyte
        block = np.asarray(audio[start : start + BLOCK], dtype=np.float64)
        out[start : start + BLOCK], state = lfilter(b, a, block, zi=state)
    return out


def _butterworth(sample_rate: int) -> tuple[Doubles, Doubles]:
    from scipy.signal import butter

    b, a = butter(HIGHPASS_ORDER, HIGHPASS_CUTOFF, btype="highpass", fs=sample_rate)
    return b, a


def load_audio(path: Path, sample_rate: int) -> Floats:
    """Decode a recording to mono float32 at `sample_rate`: (T,), T = `resampled_length` of what the file holds.

    Raises MissingFileError or AudioError, see `load_audio_native`.
    """
    audio, native_rate = load_audio_native(path)
    return resample(audio, native_rate, sample_rate)


def load_audio_native(path: Path) -> tuple[Floats, int]:
    """Decode the first audio stream of any container: ((T,) mono float32, its rate in Hz), T >= 1.

    Integer samples are scaled to [-1, 1), float samples are left as they are, channels are mixed down (which can
    exceed 1, see `_mono`). A recording that breaks off is used as far as it goes, and a warning is logged. Raises
    MissingFileError, or AudioError if nothing can be decoded or a sample is not a finite number.
    """
    import av

    _check_file(path)
    blocks: list[Floats] = []
    try:
        with _open(path) as container:
            if not container.streams.audio or container.streams.audio[0].codec_context is None:
                raise AudioError(f"{path} holds no sound that can be decoded. Give a recording (WAV, FLAC, MP3, ...).")
            stream = container.streams.audio[0]
            decoded = _Decoded()
            blocks.extend(decoded.run(container, stream))
            expected = _expected_samples(stream, decoded.sample_rate)
            is_mp4 = "mp4" in container.format.name
    except av.error.FFmpegError as error:
        raise AudioError(
            f"{path} is not a recording or is damaged ({error.strerror}). Replace or remove it."
        ) from error
    if not any(len(block) for block in blocks):
        raise AudioError(f"{path} contains no sound: not one sample could be decoded. Replace or remove it.")
    audio = np.concatenate(blocks)
    if not np.isfinite(audio).all():
        raise AudioError(f"{path} contains samples that are not numbers (NaN or infinite). Export it again.")
    audio = _cut_padding(audio, expected if is_mp4 else None)
    _warn_if_damaged(path, len(audio), decoded, expected)
    return audio, decoded.sample_rate


def is_audio_file(path: Path) -> bool:
    """Whether `path` is a file in which a decodable audio stream can be found; its name plays no part."""
    import av

    try:
        _check_file(path)
        with _open(path) as container:
            streams = container.streams.audio
            return len(streams) > 0 and streams[0].codec_context is not None
    except (av.error.FFmpegError, AudioError, MissingFileError):
        return False


def list_recordings(folder: Path) -> list[Path]:
    """The recordings directly in `folder`, sorted by name; hidden files are skipped.

    A recording is a file that probes as audio. A file with a suffix of audio that does not is listed too, so that
    whoever loads it meets the reason and can report it by name. Raises MissingFileError for a missing folder and
    AudioError when there is nothing to list.
    """
    if not folder.exists():
        raise MissingFileError(folder, "Give a folder of recordings.")
    if not folder.is_dir():
        raise AudioError(f"{folder} is a file, not a folder. Give a folder of recordings.")
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in entries if path.is_file()]
    found = [path for path in files if path.suffix.lower() in _AUDIO_SUFFIXES or is_audio_file(path)]
    if not found:
        raise AudioError(_nothing_found(folder, entries, files))
    return found


def _nothing_found(folder: Path, entries: list[Path], files: list[Path]) -> str:
    """Say why a folder has no recordings."""
    for sub in (path for path in entries if path.is_dir()):
        if any(path.suffix.lower() in _AUDIO_SUFFIXES for path in sub.iterdir()):
            return f"{folder} holds recordings only in sub-folders such as {sub.name!r}. Give one of these folders."
    if not entries:
        return f"{folder} is empty. Put recordings into it (WAV, FLAC, MP3, ...)."
    return f"{folder} holds no recordings: none of its {len(files)} files is audio. Put WAV, FLAC or MP3 files into it."


def save_audio(
    path: Path, audio: npt.NDArray[Any], sample_rate: int, *, subtype: Literal["PCM_16", "FLOAT"] = "PCM_16"
) -> None:
    """Write mono (T,) to `path` in the format its suffix names, atomically, and verify it by decoding the result.

    WAV is 16-bit or, with subtype "FLOAT", 32-bit float; FLAC is 16-bit; .ogg and .opus are Opus; .m4a is AAC. Formats
    with fixed rates (Opus: 48 kHz; MP3, AAC: the usual ones) get the next higher one, and decode to
    `resampled_length` samples there. Values outside [-1, 1] are clipped except in float WAV. Raises ConfigError for
    an unknown suffix, AudioError for unusable audio or a failed write; then `path` is as it was.
    """
    suffix = path.suffix.lower()
    if suffix.removeprefix(".") not in AUDIO_FORMATS:
        raise ConfigError(f"{path.name} has no known audio suffix; choose one of .{', .'.join(AUDIO_FORMATS)}.")
    audio = np.asarray(audio, dtype=np.float32)
    if audio.ndim != 1 or len(audio) == 0:
        raise AudioError(f"Cannot write {path}: there is no mono audio to write (shape {audio.shape}).")
    if not np.isfinite(audio).all():
        raise AudioError(f"Cannot write {path}: the audio contains samples that are not numbers (NaN or infinite).")
    if subtype != "FLOAT" or suffix != ".wav":
        audio = np.clip(audio, -1.0, 1.0)
    encoder = _ENCODERS.get(suffix)
    if encoder is not None:
        rate = next((rate for rate in encoder.rates if rate >= sample_rate), encoder.rates[-1])
        audio, sample_rate = np.clip(resample(audio, sample_rate, rate), -1.0, 1.0), rate
    try:
        with replacing(path) as temporary:
            if encoder is None:
                _write_pcm(temporary, audio, sample_rate, subtype if suffix == ".wav" else "PCM_16")
            else:
                _write_encoded(temporary, audio, sample_rate, encoder)
            _verify(path, temporary, audio, sample_rate)
    except OSError as error:
        reason = error.strerror or str(error)
        raise AudioError(f"Cannot write {path}: {reason}. Check the folder and the free space.") from error


def _write_pcm(path: Path, audio: Floats, sample_rate: int, subtype: str) -> None:
    import soundfile

    try:
        soundfile.write(str(path), audio, sample_rate, subtype=subtype)
    except soundfile.LibsndfileError as error:
        raise OSError(error.error_string) from error


def _write_encoded(path: Path, audio: Floats, sample_rate: int, encoder: _Encoder) -> None:
    import av

    # MP4 states the length in its own clock, by default milliseconds; only in samples is it exact.
    options = {"movie_timescale": str(sample_rate)} if encoder is _AAC else {}
    try:
        with av.open(str(path.resolve()), "w", options=options) as container:
            stream = container.add_stream(encoder.codec, rate=sample_rate, layout="mono")
            stream.bit_rate = min(encoder.bit_rate, 6 * sample_rate)  # low rates have no use for more
            for frame in _encoder_frames(stream.codec_context, audio, sample_rate):
                container.mux(stream.encode(frame))
    except av.error.FFmpegError as error:
        raise OSError(error.strerror) from error


def _encoder_frames(context: Any, audio: Floats, sample_rate: int) -> Iterator[Any]:
    """Yield (T,) as frames of the size and number type the encoder wants, and None at the end to flush it."""
    import av

    converter = av.AudioResampler(context.format.name, "mono", sample_rate, frame_size=context.frame_size)
    for start in range(0, len(audio), BLOCK):
        block = np.ascontiguousarray(audio[None, start : start + BLOCK])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = sample_rate, start
        yield from converter.resample(frame)
    yield from converter.resample(None)
    yield None


def _verify(path: Path, written: Path, audio: Floats, sample_rate: int) -> None:
    """Decode what was written and compare length, rate and level with what should be there."""
    decoded, rate = load_audio_native(written)
    peak, peak_decoded = float(np.abs(audio).max()), float(np.abs(decoded).max())
    longest = max(len(audio), SHORTEST_LOSSY) if written.suffix.lower() in _ENCODERS else len(audio)
    if rate != sample_rate or not len(audio) <= len(decoded) <= longest:
        want, got = f"{len(audio)} samples at {sample_rate} Hz", f"{len(decoded)} at {rate} Hz"
        raise AudioError(f"Writing {path} failed: {want} were written but {got} are read back. Try another format.")
    if peak > PEAK_AUDIBLE and peak_decoded < 0.1 * peak:
        raise AudioError(f"Writing {path} failed: what was written is read back silent. Try another format.")


def _check_file(path: Path) -> None:
    if not path.exists():
        raise MissingFileError(path, "Give the path of a recording.")
    if not path.is_file():
        raise AudioError(f"{path} is not a file. Give the path of a recording.")
    if path.stat().st_size == 0:
        raise AudioError(f"{path} is empty (0 bytes). Replace or remove it.")


def _open(path: Path) -> Any:
    import av

    # An absolute path cannot be mistaken for a URL, and a playlist posing as a recording cannot reach the network.
    # Old tags in other encodings than UTF-8 must not keep a recording from being read.
    return av.open(str(path.resolve()), metadata_errors="replace", container_options={"protocol_whitelist": "file"})


@dataclass
class _Decoded:
    """What decoding one stream met besides samples."""

    sample_rate: int = 0  # Hz; that of the first frame, which headers of some AAC files state wrongly
    damaged_packets: int = 0

    def run(self, container: Any, stream: Any) -> Iterator[Floats]:
        """Yield mono blocks (T,); packets that cannot be decoded are counted and left out."""
        import av

        for packet in _packets(container, stream, self):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                self.damaged_packets += 1
                continue
            for frame in frames:
                self.sample_rate = self.sample_rate or frame.sample_rate
                block = _mono(frame)
                yield (
                    block
                    if frame.sample_rate == self.sample_rate
                    else resample(block, frame.sample_rate, self.sample_rate)
                )


def _packets(container: Any, stream: Any, decoded: _Decoded) -> Iterator[Any]:
    """Yield packets until the container ends or breaks off."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            yield next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError:
            decoded.damaged_packets += 1
            return


def _mono(frame: Any) -> Floats:
    """Mix the channels of one decoded frame down: (T,) float32, their sum divided by sqrt(channels).

    For stereo these are the weights of the ffmpeg command line, by which the ecosystem loads recordings; an average
    would be 3 dB quieter.
    """
    samples = frame.to_ndarray()  # [channels, T] if planar, else [1, T * channels]
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128.0) / 128.0
    elif samples.dtype.kind == "i":
        samples = samples / np.float64(1 << (8 * samples.dtype.itemsize - 1))
    mono: Floats = (samples.sum(axis=0, dtype=np.float64) / np.sqrt(len(samples))).astype(np.float32)
    return mono


def _expected_samples(stream: Any, sample_rate: int) -> int | None:
    """Number of samples the container's header promises, or None if it says nothing."""
    if not stream.duration or not stream.time_base:
        return None
    seconds = Fraction(stream.duration) * Fraction(stream.time_base)
    return round(seconds * sample_rate)


def _cut_padding(audio: Floats, expected: int | None) -> Floats:
    """Cut off what an MP4's edit list marks as the encoder's padding: less than two AAC frames of 1024 samples."""
    if expected is not None and 0 < len(audio) - expected < 2048:
        return audio[:expected]
    return audio


def _warn_if_damaged(path: Path, samples: int, decoded: _Decoded, expected: int | None) -> None:
    rate = decoded.sample_rate
    if expected is not None and samples < expected - TRUNCATION_TOLERANCE * rate:
        logger.warning(
            "%s breaks off: it holds %.1f s of the %.1f s its header states", path, samples / rate, expected / rate
        )
    elif _riff_is_cut(path):
        logger.warning("%s breaks off after %.1f s: its header states a longer file", path, samples / rate)
    elif decoded.damaged_packets:
        logger.warning("%s is damaged in %d places; the rest is used", path, decoded.damaged_packets)


def _riff_is_cut(path: Path) -> bool:
    """Whether a WAV file is shorter than its header says; FFmpeg quietly corrects the duration of such a file."""
    with path.open("rb") as file:
        header = file.read(8)
    stated = int.from_bytes(header[4:8], "little")  # bytes after this field; 0 or the maximum = written to a pipe
    return header[:4] == b"RIFF" and 0 < stated < 0xFFFFFFFF and stated + 8 > path.stat().st_size
