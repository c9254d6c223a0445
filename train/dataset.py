"""Loads training clips as batches: dataset, collation, length-bucketed sampler and loader.

Unlike in RVC, lengths are read from the files rather than estimated, no clip of at least one frame is discarded, and
the batch size is per device (Accelerate distributes the batches).
"""

import functools
import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lib.arrays import array_shape, read_array
from lib.audio.mel import linear_spectrogram
from lib.config import FamilyConfig
from lib.errors import AudioError, ConfigError
from lib.machine import machine_error, read_failure
from train.experiment import Clip
from train.feature_augment import choose_features

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

BOUNDARIES = tuple(range(100, 901, 100))  # frames; clips of one bucket differ by less than a second


class Item(NamedTuple):
    """One clip, or a crop of it; F frames of 10 ms."""

    content: Tensor  # [F, C]
    pitch_bins: Tensor  # [F] int64, 1..255; zeros for voices without F0
    f0: Tensor  # [F] Hz
    audio: Tensor  # [F * hop]
    speaker_id: int


class Batch(NamedTuple):
    """Clips, zero-padded to the longest."""

    content: Tensor  # [B, F, C]
    pitch_bins: Tensor  # [B, F]     1..255, 0 in the padding
    f0: Tensor  # [B, F]     Hz
    spec: Tensor  # [B, n_fft // 2 + 1, F]
    audio: Tensor  # [B, 1, F * hop]
    lengths: Tensor  # [B]        frames
    speaker_id: Tensor  # [B]

    def to(self, device: torch.device) -> "Batch":
        """Return the same batch on another device."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))

    @classmethod
    def random(cls, config: FamilyConfig, clips: int, frames: int) -> "Batch":
        """Return a batch of noise clips with an F0 of 200 Hz, on the CPU, for speed measurements."""
        audio = torch.randn(clips, frames * config.audio.hop_length).mul(0.1)
        return cls(
            content=torch.randn(clips, frames, config.synthesizer.content_width),
            pitch_bins=torch.full((clips, frames), 80),
            f0=torch.full((clips, frames), 200.0),
            spec=linear_spectrogram(audio, config.audio.n_fft, config.audio.hop_length),
            audio=audio[:, None],
            lengths=torch.full((clips,), frames),
            speaker_id=torch.zeros(clips, dtype=torch.int64),
        )


@contextmanager
def _reading(clip: Clip) -> Iterator[None]:
    """Raise AudioError if a file of a clip is damaged, and MachineError if the disk cannot be read."""
    try:
        yield
    except (OSError, ValueError, IndexError, EOFError, soundfile.LibsndfileError) as error:
        if known := machine_error(error) or read_failure(error, clip.audio):
            raise known from error
        raise AudioError(
            "The clip {path} or its features are damaged ({detail}). Delete its files under {folder} and prepare "
            "the recordings again.",
            path=clip.audio, detail=error, folder=clip.audio.parents[1],
        ) from error  # fmt: skip


def read_content(clip: Clip) -> npt.NDArray[np.float32]:
    """Read the content features of a clip, (N, C) at 50 frames/s.

    Raises AudioError if the file is damaged, and MachineError if the disk cannot be read.
    """
    with _reading(clip):
        content: npt.NDArray[np.float32] = read_array(clip.content)
        return content


class ClipDataset(Dataset[Item]):
    """Reads clips from disk; long ones are cropped at a random offset, seeded with (seed, epoch, clip).

    A crop has `config.max_frames` frames.
    """

    def __init__(self, clips: Sequence[Clip], config: FamilyConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.epoch = 0
        counted = [(clip, self._count_frames(clip)) for clip in clips]
        if short := [clip.name for clip, frames in counted if frames < 1]:
            logger.warning("%d clips are too short to train on and are skipped: %s", len(short), ", ".join(short))
        self.clips = [clip for clip, frames in counted if frames > 0]
        self.frames = [frames for _, frames in counted if frames > 0]  # of the whole clips
        if not self.clips:
            raise ConfigError("All clips are shorter than one frame. Prepare longer recordings.")

    def _count_frames(self, clip: Clip) -> int:
        """Frames that audio, content and F0 all have. Raises the same errors as `_reading`."""
        with _reading(clip):
            return self._min_frames(clip)

    def _min_frames(self, clip: Clip) -> int:
        info = soundfile.info(clip.audio)
        rate = self.config.audio.sample_rate
        if info.samplerate != rate:
            raise ConfigError(
                "{path} has a sample rate of {found} Hz instead of {rate} Hz. Prepare the recordings again.",
                path=clip.audio, found=info.samplerate, rate=rate,
            )  # fmt: skip
        counts: list[int] = [info.frames // self.config.audio.hop_length, 2 * array_shape(clip.content)[0]]
        counts += [array_shape(path)[0] for path in (clip.pitch_bins, clip.f0) if path is not None]
        counts += [] if clip.augmented is None else [2 * array_shape(clip.augmented)[1]]
        return min(counts)

    def lengths(self) -> list[int]:
        """Return the number of frames of each item after cropping."""
        return [min(frames, self.config.max_frames) for frames in self.frames]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Item:
        with _reading(self.clips[index]):
            return self._read(index)

    def _read(self, index: int) -> Item:
        clip, frames = self.clips[index], min(self.frames[index], self.config.max_frames)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        start = int(rng.integers(self.frames[index] - frames + 1))
        hop = self.config.audio.hop_length
        audio, _ = soundfile.read(clip.audio, frames * hop, start * hop, dtype="float32", always_2d=True)
        augmented = None if clip.augmented is None else read_array(clip.augmented)
        content = choose_features(read_array(clip.content), augmented, rng)
        places = np.arange(start, start + frames)
        bins = np.zeros(frames, np.int64) if clip.pitch_bins is None else read_array(clip.pitch_bins)[places]
        f0 = np.zeros(frames, np.float32) if clip.f0 is None else read_array(clip.f0)[places]
        return Item(
            content=torch.from_numpy(np.asarray(content[places // 2], np.float32)),  # one row per two frames
            pitch_bins=torch.from_numpy(bins.astype(np.int64)),
            f0=torch.from_numpy(f0.astype(np.float32)),
            audio=torch.from_numpy(audio.mean(1)),
            speaker_id=clip.speaker_id,
        )


def collate(items: Sequence[Item], config: FamilyConfig) -> Batch:
    """Zero-pad items to the longest, but to at least one segment and the length needed for a spectrum."""
    audio_config = config.audio
    hop, n_fft = audio_config.hop_length, audio_config.n_fft
    frames = max(*(len(item.f0) for item in items), config.synthesizer.segment_frames, n_fft // hop + 1)
    batch = len(items)
    content = torch.zeros(batch, frames, items[0].content.shape[1])
    pitch_bins = torch.zeros(batch, frames, dtype=torch.int64)
    f0 = torch.zeros(batch, frames)
    audio = torch.zeros(batch, frames * hop)
    for row, item in enumerate(items):
        length = len(item.f0)
        content[row, :length] = item.content
        pitch_bins[row, :length] = item.pitch_bins
        f0[row, :length] = item.f0
        audio[row, : length * hop] = item.audio[: length * hop]
    return Batch(
        content=content,
        pitch_bins=pitch_bins,
        f0=f0,
        spec=linear_spectrogram(audio, n_fft, hop),
        audio=audio.unsqueeze(1),
        lengths=torch.tensor([len(item.f0) for item in items]),
        speaker_id=torch.tensor([item.speaker_id for item in items]),
    )


class BucketSampler(Sampler[list[int]]):
    """Yields batches of clips of similar length, in a random order seeded with the epoch number.

    Each bucket is filled up to whole batches by repeating its own shuffled list from the start. A length n belongs to
    the bucket with b[k] < n <= b[k + 1]; lengths outside the boundaries are put into the first or last bucket.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, boundaries: Sequence[int] = BOUNDARIES) -> None:
        self.batch_size = batch_size
        self.epoch = 0
        self.skip = 0  # batches to skip at the start of the epoch, which an earlier run has processed
        buckets: list[list[int]] = [[] for _ in boundaries[1:]]
        for index, length in enumerate(lengths):
            place = int(np.searchsorted(boundaries, length, side="left")) - 1
            buckets[min(max(place, 0), len(buckets) - 1)].append(index)
        self.buckets = [bucket for bucket in buckets if bucket]

    def __len__(self) -> int:
        return sum(-(-len(bucket) // self.batch_size) for bucket in self.buckets)

    def __iter__(self) -> Iterator[list[int]]:
        rng = torch.Generator().manual_seed(self.epoch)
        orders = [torch.randperm(len(bucket), generator=rng).tolist() for bucket in self.buckets]
        batches = []
        for bucket, order in zip(self.buckets, orders, strict=True):
            shuffled = [bucket[place] for place in order]
            wanted = -(-len(bucket) // self.batch_size) * self.batch_size
            filled = (shuffled * (wanted // len(shuffled) + 1))[:wanted]
            batches += [filled[i : i + self.batch_size] for i in range(0, wanted, self.batch_size)]
        yield from (batches[place] for place in torch.randperm(len(batches), generator=rng).tolist()[self.skip :])


class TrainBatches:
    """The batches of a training run, epoch by epoch; an epoch can be resumed at any batch.

    The batch size in `dataset.config` is per process.
    """

    def __init__(self, dataset: ClipDataset, accelerator: "Accelerator", workers: int | None = None) -> None:
        on_gpu = accelerator.device.type == "cuda"
        self.dataset = dataset
        self.sampler = BucketSampler(dataset.lengths(), dataset.config.train.batch_size * accelerator.num_processes)
        loader = DataLoader(
            dataset,
            batch_sampler=self.sampler,
            collate_fn=functools.partial(collate, config=dataset.config),
            num_workers=(2 if on_gpu else 0) if workers is None else workers,
            pin_memory=on_gpu,
            worker_init_fn=_ignore_interrupt,
            generator=torch.Generator(),  # or every epoch would draw from the generator of the noise
        )
        self._loader = accelerator.prepare(loader)

    def __len__(self) -> int:
        """Number of batches per epoch."""
        return len(self.sampler)

    def of_epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (counted from 0) after the first `skip`, on the training device."""
        self.sampler.epoch = self.dataset.epoch = epoch + 1  # RVC counts epochs from 1
        self.sampler.skip = skip
        state = torch.get_rng_state()
        for number, batch in enumerate(self._loader):
            if number == 0:
                torch.set_rng_state(
                    state
                )  # starting a loader may draw numbers; the noise of a resumed run must not change
            yield Batch(*batch)


def _ignore_interrupt(worker: int) -> None:
    """Ignore Ctrl-C in loader processes: the main process handles it, and a loader that ends would raise an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
