"""Estimates before training: steps, time on this machine, disk space, and the default batch size."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lib.audio import ANALYSIS_RATE
from lib.config import Family, FamilyConfig
from lib.devices import choose_device
from lib.errors import RevoiceError
from lib.paths import LOGS
from lib.pitch.scale import FRAMES_PER_SECOND
from train.experiment import Experiment
from train.metrics import Events
from train.options import PrepareOptions, RunOptions

if TYPE_CHECKING:
    import torch

GOOD_STEPS = {"lite": 3500}  # after which the loss curves of a family flatten
USUAL_STEPS = 8000  # of v1 and v2: 200 epochs of ten minutes
MIN_EPOCHS, MAX_EPOCHS = 200, 600  # the usual range of RVC; the minimum is that of v1 and v2
NOISY_EPOCHS = 30  # of v1 and v2
MUTE_CLIPS = 2  # silent clips added to the training data, as in RVC
BYTES_PER_PARAMETER = 12  # in a checkpoint: the weight and two moments of its gradient, in float32
AVERAGE_BYTES = 4  # per parameter of the averaged generator beside it
VOICE_BYTES = 2  # per parameter of a voice, in float16
BYTES_PER_CLIP = 2e9  # RVC's rule: half the number of gigabytes
MIN_STEPS_PER_EPOCH = 10  # that the default batch size leaves
MAX_BATCH = 40  # RVC's limit; a larger batch would only repeat the clips of a small set


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of a training run from the first step."""

    steps: int
    minutes: float | None  # None: no comparable run on this machine
    disk: int  # bytes it will write
    free: int  # bytes free now


def estimate_training(config: FamilyConfig, options: RunOptions, seconds: float, logs: Path = LOGS) -> Estimate:
    """Estimate the training of a voice on `seconds` of recordings.

    Raises ConfigError if the device does not exist.
    """
    clips = clips_of(seconds, options)
    batch_size = options.batch_size or default_batch_size(config, choose_device(options.device).device, clips)
    steps = options.epochs * math.ceil(clips / batch_size)
    speed = known_speed(config.family, batch_size, logs)
    minutes = steps / speed / 60 if speed else None
    if options.max_minutes is not None:
        minutes = options.max_minutes if minutes is None else min(minutes, options.max_minutes)
    free = shutil.disk_usage(next(folder for folder in (logs, *logs.parents) if folder.is_dir())).free
    return Estimate(steps, minutes, _disk(config, options, seconds, minutes), free)


def suggested_epochs(config: FamilyConfig, options: RunOptions, seconds: float, *, noisy: bool = False) -> int:
    """Return the number of epochs that yields a good voice of the family from `seconds` of recordings.

    It is at most MAX_EPOCHS, the upper end of the usual range, even if a few seconds of recordings then yield fewer
    steps. For noisy recordings it is NOISY_EPOCHS for v1 and v2, because with longer training the model learns the
    noise.
    """
    clips = clips_of(seconds, options)
    steps = math.ceil(clips / (options.batch_size or config.train.batch_size))
    wanted = math.ceil(GOOD_STEPS.get(config.family, USUAL_STEPS) / steps)
    if config.family in GOOD_STEPS:
        return min(wanted, MAX_EPOCHS)
    return NOISY_EPOCHS if noisy else min(max(wanted, MIN_EPOCHS), MAX_EPOCHS)


def known_speed(family: Family, batch_size: int, logs: Path = LOGS) -> float | None:
    """Return the most recently measured speed, in steps per second, of the newest run of the family with that batch
    size; None if there is none."""
    paths = [path for path in logs.glob("*/events.jsonl") if not path.parent.name.startswith(".")]
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        experiment = Experiment(path.parent.name, logs)
        try:
            config = experiment.config()
        except (RevoiceError, OSError):
            continue
        events = Events(path).read("fit")
        if config.family == family and config.train.batch_size == batch_size and events:
            speed = events[-1].get("steps_per_second")
            if isinstance(speed, int | float) and speed > 0:
                return float(speed)
    return None


def _disk(config: FamilyConfig, options: RunOptions, seconds: float, minutes: float | None) -> int:
    """Bytes of clips, features, checkpoints (one more than kept, while saving) and voices."""
    voice, others = count_parameters(config)
    pairs = BYTES_PER_PARAMETER * (voice + others) * (options.keep_checkpoints + 1)
    pairs += AVERAGE_BYTES * voice * (options.keep_checkpoints + 1) if config.average else 0
    saves = 1
    if options.save_every_voice:
        saves += int((minutes or 0) / options.save_every_minutes)
        saves += options.epochs // options.save_every_epochs if options.save_every_epochs else 0
    content = FRAMES_PER_SECOND // 2 * config.synthesizer.content_width * 4
    augmented = content // 2 * config.augmentations
    pitch = FRAMES_PER_SECOND * 16 if config.synthesizer.has_f0 else 0
    clip = 4 * (config.audio.sample_rate + ANALYSIS_RATE)
    index = content
    return round(seconds * (clip + content + augmented + pitch + index)) + pairs + saves * VOICE_BYTES * voice


def count_parameters(config: FamilyConfig) -> tuple[int, int]:
    """Count the parameters of a voice, and those that only training needs: posterior encoder and discriminator."""
    from lib.voice.infer_config import build_network
    from lib.voice.weights import meta_device
    from train.networks import build_networks

    with meta_device():
        networks = (build_network(config.synthesizer), *build_networks(config))
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
    return sizes[0], sizes[1] - sizes[0] + sizes[2]


def clips_of(seconds: float, options: PrepareOptions) -> int:
    """Return the number of training clips cut from `seconds` of recordings, including the added mute clips."""
    return math.ceil(seconds / options.slice_seconds) + MUTE_CLIPS


def default_batch_size(config: FamilyConfig, device: "torch.device", clips: int) -> int:
    """Return the batch size for training on `clips` clips.

    On a GPU it depends on free memory and the number of clips (see `batch_for`); elsewhere it is the family's default.
    """
    if device.type != "cuda":
        return config.train.batch_size
    import torch

    return batch_for(torch.cuda.mem_get_info(device)[0], clips, config.train.batch_size)


def batch_for(memory: float, clips: int, usual: int) -> int:
    """Return the batch size for a GPU with `memory` bytes free: one clip per 2 GB.

    It is limited so that an epoch has at least 10 steps, but `usual`, the family's default, is always allowed. Larger
    batches for a small data set would mean fewer steps, and the voice would be undertrained.
    """
    return min(max(int(memory / BYTES_PER_CLIP), 1), MAX_BATCH, max(usual, clips // MIN_STEPS_PER_EPOCH))
