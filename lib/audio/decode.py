"""Decode recordings in any container format block by block to mono float32, and find recordings in folders."""

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lib.audio.filters import resample
from lib.errors import AudioError, MissingFileError, RevoiceError
from lib.machine import read_failure
from lib.progress import Progress, checked, no_progress
from lib.typing import FloatArray

logger = logging.getLogger(__name__)


MonoChannel = Literal["mix", "left", "right"]
Channel = MonoChannel | Literal["stereo"]
CHANNELS = {"left": 0, "right": 1}
CANCELLED = 0.01  # power of a mix to the mean power of its channels; 1 for independent, 2 for equal channels
AUDIBLE_PEAK = 1e-3  # of a recording that is not silent

BLOCK = 1 << 20  # samples decoded at a time
MAX_FILES = 100_000  # in a folder of recordings and its sub-folders
MP4_PADDING = 2048  # samples: an encoder pads by less than two AAC frames
TRUNCATION_TOLERANCE = 0.1  # s a file may fall short of the duration in its header without being called truncated

# A file with one of these suffixes is meant to be a recording: if it cannot be read, that is reported.
RECORDING_SUFFIXES = {
    ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".m4b", ".mp4", ".aac", ".ac3", ".aif", ".aifc", ".aiff",
    ".amr", ".caf", ".mka", ".rf64", ".w64", ".webm", ".wma",
}  # fmt: skip
# Names of audio and video files, whether or not they can be read; an output with such a suffix is meant to be a file.
MEDIA_SUFFIXES = RECORDING_SUFFIXES | {
    ".3g2", ".3gp", ".aax", ".alac", ".ape", ".au", ".avi", ".bwf", ".dff", ".dsf", ".dts", ".eac3", ".flv", ".gsm",
    ".m2ts", ".m4r", ".m4v", ".mid", ".midi", ".mkv", ".mov", ".mp1", ".mp2", ".mpc", ".mpeg", ".mpg", ".mts", ".mxf",
    ".ogv", ".ogx", ".opus", ".ra", ".raw", ".rm", ".snd", ".spx", ".tak", ".tta", ".voc", ".vob", ".wave", ".wmv",
    ".wv",
}  # fmt: skip


def load_audio(path: Path, sample_rate: int, channel: MonoChannel = "mix") -> FloatArray:
    """Decode a recording to mono float32 at `sample_rate`: (T,), where T is `resampled_length` of its samples.

    Raises MissingFileError or AudioError; see `Recording`.
    """
    audio, native_rate = load_audio_native(path, channel)
    return resample(audio, native_rate, sample_rate)


def load_stereo(path: Path, progress: Progress = no_progress) -> tuple[FloatArray, int]:
    """Decode the first audio stream with its channels: ((C, T) float32, its sample rate in Hz), C = 1 or 2, T >= 1.

    Raises MissingFileError or AudioError; see `Recording`.
    """
    recording = Recording(path, "stereo")
    return np.concatenate([*checked(recording.blocks, lambda: progress(0, 1, ""))], axis=-1), recording.sample_rate


def load_audio_native(path: Path, channel: MonoChannel = "mix") -> tuple[FloatArray, int]:
    """Decode the first audio stream of any container: ((T,) mono float32, its sample rate in Hz), T >= 1.

    Raises MissingFileError or AudioError; see `Recording`.
    """
    recording = Recording(path, channel)
    return np.concatenate([*recording.blocks]), recording.sample_rate


class Recording:
    """The first audio stream of any container, decoded block by block to mono float32 at its own `sample_rate` in Hz.

    Integer samples are scaled to [-1, 1); float samples are unchanged. Channels are mixed down (the result can exceed
    1, see `_mono`), or `channel` selects one of them; a mono recording has only one. If `channel` is "stereo", the
    blocks are (C, N), C = 1 for a mono recording, otherwise 2; surround sound is mixed down to two channels. A
    truncated recording is decoded as far as possible, with a warning in the log. `samples` is the number of samples
    read so far.

    Raises MissingFileError if the file does not exist, and AudioError if nothing can be decoded, a sample is not a
    finite number, or the channels cancel each other out when they are mixed; AudioError is also raised while the blocks
    are read.
    """

    def __init__(self, path: Path, channel: Channel = "mix") -> None:
        self.samples = 0
        self._path = path
        self._decoded = _Decoded(channel)
        blocks = self._decode()
        first = next(blocks)
        self.sample_rate = self._decoded.sample_rate
        self.blocks = self._count(chain([first], blocks))

    def _count(self, blocks: Iterable[FloatArray]) -> Iterator[FloatArray]:
        for block in blocks:
            self.samples += block.shape[-1]
            yield block

    def _decode(self) -> Iterator[FloatArray]:
        import av

        path, decoded = self._path, self._decoded
        _check_file(path)
        samples = 0
        held: FloatArray | None = None  # possibly padding of the encoder
        try:
            with _open(path) as container:
                stream = _audio_stream(container, path)
                for block in _larger(decoded.run(container, stream)):
                    if not np.isfinite(block).all():
                        raise AudioError(
                            "{path} contains non-finite samples (NaN or infinity). Export it again.",
                            path=path,
                        )
                    held = block if held is None else np.concatenate([held, block], axis=-1)
                    samples += block.shape[-1]
                    if held.shape[-1] > MP4_PADDING:
                        yield held[..., :-MP4_PADDING]
                        held = held[..., -MP4_PADDING:]
                expected = _expected_samples(stream, decoded.sample_rate)
                is_mp4 = "mp4" in container.format.name
        except av.error.FFmpegError as error:
            raise unreadable(path, error) from error
        if held is None or samples == 0:
            raise AudioError("{path} contains no audio: no sample could be decoded. Replace or remove it.", path=path)
        if decoded.channels_cancel:
            raise AudioError(
                "{path}: its channels cancel each other, as with inverted polarity or centre cancellation, so the mono "
                "mix is silent. Use one channel: --channel left.",
                path=path,
            )
        if is_mp4 and expected is not None and 0 < samples - expected < MP4_PADDING:
            held = held[..., : held.shape[-1] - (samples - expected)]  # an edit list marks it as padding
        yield held
        _warn_if_damaged(path, samples, decoded, expected)


def _audio_stream(container: Any, path: Path) -> Any:
    """The first audio stream of a container. Raises AudioError if there is none."""
    if not container.streams.audio or container.streams.audio[0].codec_context is None:
        raise AudioError(
            "{path} contains no audio that can be decoded. Use a recording (WAV, FLAC, MP3, ...).", path=path
        )
    return container.streams.audio[0]


def unreadable(path: Path, error: Any) -> RevoiceError:
    """Translate an FFmpeg error: returns a MachineError if the disk cannot be read, otherwise an AudioError."""
    return read_failure(error, path) or AudioError(
        "{path} is not a recording or is damaged ({reason}). Replace or remove it.", path=path, reason=error.strerror
    )


def _larger(blocks: Iterable[FloatArray]) -> Iterator[FloatArray]:
    """Join decoded frames of a few thousand samples into blocks of about BLOCK samples."""
    parts: list[FloatArray] = []
    length = 0
    for block in blocks:
        parts.append(block)
        length += block.shape[-1]
        if length >= BLOCK:
            yield np.concatenate(parts, axis=-1)
            parts, length = [], 0
    if parts:
        yield np.concatenate(parts, axis=-1)


def is_audio_file(path: Path) -> bool:
    """Whether `path` is a file with a decodable audio stream, regardless of its name."""
    import av

    try:
        _check_file(path)
        with _open(path) as container:
            streams = container.streams.audio
            return len(streams) > 0 and streams[0].codec_context is not None
    except (av.error.FFmpegError, AudioError, MissingFileError):
        return False


def stated_seconds(path: Path) -> float:
    """Return the length of a recording in seconds according to its header, 0 if it gives none; nothing is decoded.

    Raises MissingFileError if the file does not exist, and AudioError if it has no audio stream.
    """
    import av

    _check_file(path)
    try:
        with _open(path) as container:
            stream = _audio_stream(container, path)
            if stream.duration and stream.time_base:
                return float(stream.duration * stream.time_base)
            return float(container.duration or 0) / float(av.time_base)
    except av.error.FFmpegError as error:
        raise unreadable(path, error) from error


def list_recordings(folder: Path, results: Path | None = None) -> list[Path]:
    """List the recordings in `folder` and its sub-folders, sorted by path; hidden files and folders are skipped.

    The `results` folder is skipped, too, if it is below `folder`, so that a second run does not convert its own
    results.

    A recording is a file in which FFmpeg finds an audio stream. Other files with an audio suffix are listed, too, so
    that loading them reports the reason. Raises MissingFileError if the folder does not exist, and AudioError if it
    contains no recordings or more than MAX_FILES files.
    """
    if not folder.exists():
        raise MissingFileError(folder, "Specify a folder of recordings.")
    if not folder.is_dir():
        raise AudioError("{path} is a file, not a folder. Specify a folder of recordings.", path=folder)
    files = [path for path in list_files(folder, results) if not path.name.startswith(".")]
    found = [path for path in files if path.suffix.lower() in RECORDING_SUFFIXES or is_audio_file(path)]
    if found:
        return found
    if not files:
        raise AudioError("{path} is empty. Put recordings into it (WAV, FLAC, MP3, ...).", path=folder)
    raise AudioError(
        "{path} contains no recordings: none of its {count} files is audio. Put WAV, FLAC or MP3 files into it.",
        path=folder,
        count=len(files),
    )


def list_files(folder: Path, results: Path | None = None) -> list[Path]:
    """List all files in `folder` and its sub-folders, sorted by path; links are followed.

    Hidden folders and the `results` folder are skipped. Raises AudioError if there are more than MAX_FILES files: the
    folder is then probably a whole disk and not a folder of recordings.
    """
    found: list[Path] = []
    seen = set() if results is None else {os.path.realpath(results)} - {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            found += [path for name in names if (path := Path(place, name)).is_file()]
        seen.add(real)  # a link may lead back to a folder above it
        if len(found) > MAX_FILES:
            raise AudioError(
                "{path} contains more than {limit} files. Specify the folder of the recordings.",
                path=folder,
                limit=MAX_FILES,
            )
    return sorted(found)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise MissingFileError(path, "Specify the path of a recording.")
    if not path.is_file():
        raise AudioError("{path} is not a file. Specify the path of a recording.", path=path)
    if path.stat().st_size == 0:
        raise AudioError("{path} is empty (0 bytes). Replace or remove it.", path=path)


def _open(path: Path) -> Any:
    import av

    # An absolute path cannot be mistaken for a URL, and a playlist posing as a recording cannot reach the network.
    # Old tags in encodings other than UTF-8 must not make a recording unreadable.
    return av.open(str(path.resolve()), metadata_errors="replace", container_options={"protocol_whitelist": "file"})


@dataclass
class _Decoded:
    """Sample rate and damage of one decoded stream."""

    channel: Channel = "mix"
    sample_rate: int = 0  # Hz, of the first frame; the headers of some AAC files are incorrect
    damaged_packets: int = 0
    power: float = 0.0  # sum of squares: mean of all channels ...
    mixed_power: float = 0.0  # ... and of their mix
    peak: float = 0.0  # of all channels
    n_channels: int = 0  # of a stereo signal: 1 or 2, as its first frame

    @property
    def channels_cancel(self) -> bool:
        """Whether several channels with sound give a mix that is almost silent."""
        return self.peak > AUDIBLE_PEAK and self.mixed_power < CANCELLED * self.power

    def run(self, container: Any, stream: Any) -> Iterator[FloatArray]:
        """Yield mono blocks (T,), or stereo blocks (C, T); packets that cannot be decoded are counted and skipped."""
        import av

        for packet in _packets(container, stream, self):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                self.damaged_packets += 1
                continue
            for frame in frames:
                self.sample_rate = self.sample_rate or frame.sample_rate
                block = self._both_channels(frame) if self.channel == "stereo" else self._one_channel(frame)
                yield (
                    block
                    if frame.sample_rate == self.sample_rate
                    else resample(block, frame.sample_rate, self.sample_rate)
                )

    def _both_channels(self, frame: Any) -> FloatArray:
        """All channels of a frame, at most two: (C, T)."""
        import av

        if len(frame.layout.channels) > 2:
            (frame,) = av.AudioResampler("fltp", "stereo", frame.sample_rate).resample(frame)
        samples: FloatArray = _channels(frame).astype(np.float32)
        self.n_channels = self.n_channels or len(samples)
        if len(samples) < self.n_channels:
            return np.repeat(samples, self.n_channels, axis=0)
        return samples if len(samples) == self.n_channels else _mono(samples)[None]

    def _one_channel(self, frame: Any) -> FloatArray:
        """The chosen channel of a frame, or the mix: (T,)."""
        samples = _channels(frame)
        if self.channel != "mix":
            chosen: FloatArray = samples[min(CHANNELS[self.channel], len(samples) - 1)].astype(np.float32)
            return chosen
        mono = _mono(samples)
        if len(samples) > 1 and np.isfinite(samples).all():
            self.power += float(np.square(samples, dtype=np.float64).sum()) / len(samples)
            self.mixed_power += float(np.square(mono, dtype=np.float64).sum())
            self.peak = max(self.peak, float(np.abs(samples).max(initial=0.0)))
        return mono


def _packets(container: Any, stream: Any, decoded: _Decoded) -> Iterator[Any]:
    """Yield packets to the end of the container, or to where it is truncated."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            yield next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError as error:
            if failure := read_failure(error, Path(container.name)):  # what follows is not missing in the file
                raise failure from error
            decoded.damaged_packets += 1
            return


def _mono(samples: npt.NDArray[Any]) -> FloatArray:
    """Mix channels (C, T) down: (T,) float32, their sum divided by sqrt(C).

    For stereo these are the weights of the ffmpeg command line, with which RVC loads recordings; an average
    would be 3 dB quieter.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # samples that are not finite are refused later
        mono: FloatArray = (samples.sum(axis=0, dtype=np.float64) / np.sqrt(len(samples))).astype(np.float32)
    return mono


def _channels(frame: Any) -> npt.NDArray[Any]:
    """The channels of one decoded frame (C, T), integers scaled to [-1, 1)."""
    samples = frame.to_ndarray()  # [channels, T] if planar, else [1, T * channels]
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128.0) / 128.0
    elif samples.dtype.kind == "i":
        samples = samples / np.float64(1 << (8 * samples.dtype.itemsize - 1))
    channels: npt.NDArray[Any] = samples
    return channels


def _expected_samples(stream: Any, sample_rate: int) -> int | None:
    """Number of samples according to the container's header; None if it states no duration."""
    if not stream.duration or not stream.time_base:
        return None
    seconds = Fraction(stream.duration) * Fraction(stream.time_base)
    return round(seconds * sample_rate)


def _warn_if_damaged(path: Path, samples: int, decoded: _Decoded, expected: int | None) -> None:
    rate = decoded.sample_rate
    if expected is not None and samples < expected - TRUNCATION_TOLERANCE * rate:
        logger.warning(
            "%s is truncated: it contains %.1f s of the %.1f s in its header", path, samples / rate, expected / rate
        )
    elif _riff_is_truncated(path):
        logger.warning("%s is truncated after %.1f s: its header states a longer file", path, samples / rate)
    elif decoded.damaged_packets:
        logger.warning("%s is damaged in %d places; the rest is used", path, decoded.damaged_packets)


def _riff_is_truncated(path: Path) -> bool:
    """Whether a WAV file is shorter than its header says; FFmpeg quietly corrects the duration of such a file."""
    with path.open("rb") as file:
        header = file.read(8)
    stated = int.from_bytes(header[4:8], "little")  # bytes after this field; 0 or the maximum = written to a pipe
    return header[:4] == b"RIFF" and 0 < stated < 0xFFFFFFFF and stated + 8 > path.stat().st_size
