"""Sets up a training run from an experiment and its options: device, state, clips, initial weights."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from accelerate.utils import set_seed

from lib.content import ContentEncoder, load_content_encoder
from lib.devices import choose_device
from lib.voice.model_file import ContentEncoderId
from train.base_models import find_base, without_base
from train.checkpoints import CheckpointManager, Resumed, load_base, resume_newest
from train.dataset import ClipDataset, TrainBatches
from train.distributed import minimum
from train.estimate import MUTE_CLIPS, default_batch_size
from train.experiment import Clip, Experiment, check_speaker
from train.extract import make_mute_clip, mute_clip
from train.metrics import Events, RunMetrics
from train.options import FitOptions
from train.speakers import read_table
from train.state import TrainState, make_accelerator, make_state

logger = logging.getLogger(__name__)

LATEST_NUMBER = 2333333  # in file names of RVC: "the latest", not a count


@dataclass
class Training:
    """One run of `fit`: the state it changes, its batches, and where results go."""

    experiment: Experiment
    options: FitOptions
    state: TrainState
    batches: TrainBatches
    checkpoints: CheckpointManager
    metrics: RunMetrics
    began: float = field(default_factory=time.monotonic)
    last_save: float = field(default_factory=time.monotonic)

    def save(self) -> None:
        """Write checkpoints, voice and sample if there was a step since the last call; every process calls this."""
        self.last_save = time.monotonic()
        self.checkpoints.save(self.state, self.batches.dataset)


def set_up(experiment: Experiment, options: FitOptions, clips: Sequence[Clip] | None = None) -> Training:
    """Load everything for a run, and resume from the newest checkpoint if there is one.

    `clips` None takes the experiment's own. ConfigError, CheckpointError, AudioError or MissingFileError if
    training cannot start; checkpoints and voice are unchanged then.
    """
    config = experiment.config()
    check_speaker(config, options.speaker_id)
    experiment.check_voice_is_ours()
    device = choose_device(options.device)
    logger.info("device: %s (%s)", device.device, device.reason)
    earlier = experiment.stage("fit").get("precision", "auto") if options.precision == "auto" else options.precision
    accelerator = make_accelerator(earlier, device.device)
    size = options.batch_size or experiment.stage("fit").get("batch_size")
    n_clips = (len(experiment.clips()) if clips is None else len(clips)) // accelerator.num_processes
    size = size or minimum(default_batch_size(config, accelerator.device, n_clips))
    logger.info("batch size: %d clips per step on each of %d device(s)", size, accelerator.num_processes)
    config = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": size})})
    set_seed(
        options.seed + accelerator.process_index
    )  # each process draws its own noise; weights are those of the main process
    encoder_name = experiment.stage("extract").get("content_encoder")
    encoder = load_content_encoder(config.family, accelerator.device, encoder_name)
    state = make_state(config, accelerator, options.learning_rate)
    resumed = _load_start_weights(state, experiment, options)
    dataset = ClipDataset(_all_clips(experiment, options, state, encoder, clips), config, options.seed)
    batches = TrainBatches(dataset, accelerator, options.workers)
    _number_steps(state, experiment, len(batches))
    encoder_id = ContentEncoderId(encoder.name, encoder.sha256)
    checkpoints = CheckpointManager(experiment, options, config, encoder_id, resumed)
    metrics = RunMetrics(Events(experiment.events), config.train.log_interval, state.progress.step)
    return Training(experiment, options, state, batches, checkpoints, metrics)


def _load_start_weights(state: TrainState, experiment: Experiment, options: FitOptions) -> Resumed | None:
    """Load the newest whole pair of checkpoints, else the base models, else keep the fresh weights."""
    with state.accelerator.main_process_first():
        if state.accelerator.is_main_process:
            experiment.recover()
    if (resumed := resume_newest(state, experiment)) is not None:
        name, progress = resumed.pair.generator.name, state.progress
        logger.info("resuming from %s: epoch %d, step %d", name, progress.epoch, progress.step)
        return resumed
    base = find_base(state.config) if options.base else None
    if base is None:
        logger.warning("%s", without_base(state.config, wanted=options.base))
    else:
        load_base(state, base.generator, base.discriminator, where=str(base.folder))
        logger.info("starting from the base models in %s", base.folder)
    return None


def _all_clips(
    experiment: Experiment,
    options: FitOptions,
    state: TrainState,
    encoder: ContentEncoder,
    given: Sequence[Clip] | None,
) -> list[Clip]:
    """The clips to train on, silent ones included; the main process writes the file list and the silent clip."""
    clips = speaker_clips(experiment, options) if given is None else list(given)
    numbers = {clip.speaker_id: None for clip in clips}
    mutes = [mute_clip(experiment.folder.parent, state.config, encoder, number) for number in numbers]
    clips += [mute for mute in mutes for _ in range(MUTE_CLIPS)]
    with state.accelerator.main_process_first():
        if state.accelerator.is_main_process:
            make_mute_clip(mutes[0], state.config, encoder)
            experiment.write_file_list(clips)
    return clips


def speaker_clips(experiment: Experiment, options: FitOptions) -> list[Clip]:
    """The clips of an experiment with their speakers; those of speakers with fewer recordings several times."""
    clips, table = experiment.clips(speaker_id=options.speaker_id), read_table(experiment)
    if table is None or not table.names:
        return clips
    speakers = {speaker.number: speaker for speaker in table.speakers()}
    for speaker in speakers.values():
        logger.info("%s", speaker)
    clips = table.with_speakers(clips)
    return [clip for clip in clips for _ in range(speakers[clip.speaker_id].repeat if options.balance_speakers else 1)]


def _number_steps(state: TrainState, experiment: Experiment, batches_per_epoch: int) -> None:
    """For another program's experiment, start the step count above its checkpoints, so that none is overwritten."""
    progress = state.progress
    if progress.step == 0 and progress.epoch > 0:
        names = [path.stem[2:] for path in experiment.folder.glob("G_*.pth")]
        numbers = [int(name) for name in names if name.isdecimal() and int(name) != LATEST_NUMBER]
        progress.step = max([progress.epoch * batches_per_epoch, *numbers])
