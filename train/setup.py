"""Sets up a training run from an experiment and its options: device, state, clips, initial weights."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from accelerate.utils import set_seed

from lib.content import ContentEncoder, load_content_encoder
from lib.devices import choose_device
from lib.voice.model_file import ContentEncoderId
from train.base_models import chosen_base, without_base
from train.best_epoch import BestEpoch
from train.checkpoints import CheckpointManager, Resumed, load_base, resume_newest
from train.dataset import ClipDataset, TrainBatches
from train.distributed import minimum
from train.estimate import MUTE_CLIPS, default_batch_size
from train.experiment import Clip, Experiment, check_speaker
from train.extract import make_mute_clip, mute_clip
from train.held_out import RECORD, ChosenClips, choose_clips, make_held_out
from train.metrics import Events, RunMetrics
from train.options import FitOptions
from train.state import TrainState, make_accelerator, make_state

logger = logging.getLogger(__name__)

LATEST_NUMBER = 2333333  # in file names of RVC: "the latest", not a count


@dataclass
class Training:
    """One run of `fit`: the state it changes, its batches, and the files it writes."""

    experiment: Experiment
    options: FitOptions
    state: TrainState
    batches: TrainBatches
    checkpoints: CheckpointManager
    metrics: RunMetrics
    best: BestEpoch | None = None  # of the main process, if recordings are held out
    began: float = field(default_factory=time.monotonic)
    last_save: float = field(default_factory=time.monotonic)

    def save(self) -> None:
        """Write checkpoints, voice and sample, unless there was no step since the last call.

        All processes call this.
        """
        self.last_save = time.monotonic()
        dataset = self.best.held_out.dataset if self.best else self.batches.dataset
        self.checkpoints.save(self.state, dataset)
        if self.best is not None and self.state.progress.step:
            self.best.update(self.state, self.metrics.logger)


def set_up(experiment: Experiment, options: FitOptions, clips: Sequence[Clip] | None = None) -> Training:
    """Load everything for a run, and resume from the newest checkpoint if there is one.

    If `clips` is None, the experiment's own clips are used. Raises ConfigError, CheckpointError, AudioError or
    MissingFileError if training cannot start; checkpoints and voice are then unchanged.
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
    state.micro_batch = -(-size // options.accumulation_steps) if options.accumulation_steps > 1 else None
    if options.gradient_checkpointing:
        state.checkpoint_gradients()
    resumed = _load_start_weights(state, experiment, options, encoder)
    chosen = choose_clips(experiment, options) if clips is None else ChosenClips(list(clips), [], {})
    dataset = ClipDataset(_with_silence(experiment, state, encoder, chosen.training), config, options.seed)
    batches = TrainBatches(dataset, accelerator, options.workers)
    _number_steps(state, experiment, len(batches))
    encoder_id = ContentEncoderId(encoder.name, encoder.sha256)
    checkpoints = CheckpointManager(experiment, options, config, encoder_id, resumed)
    metrics = RunMetrics(Events(experiment.events), config.train.log_interval, state.progress.step)
    best = _make_best(experiment, chosen, state)
    return Training(experiment, options, state, batches, checkpoints, metrics, best)


def _make_best(experiment: Experiment, chosen: ChosenClips, state: TrainState) -> BestEpoch | None:
    """Return the evaluator of the held-out recordings, and record which recordings they are.

    None if there are none, or in a process other than the main process.
    """
    if not chosen.held_out or not state.accelerator.is_main_process:
        return None
    experiment.update_record({RECORD: experiment.stage(RECORD) | {"parts": chosen.parts}})
    return BestEpoch(experiment, make_held_out(chosen.held_out, state.config), state.progress.step)


def _load_start_weights(
    state: TrainState, experiment: Experiment, options: FitOptions, encoder: ContentEncoder
) -> Resumed | None:
    """Load the newest intact pair of checkpoints, otherwise the base models, otherwise keep the random weights."""
    with state.accelerator.main_process_first():
        if state.accelerator.is_main_process:
            experiment.recover()
    if (resumed := resume_newest(state, experiment)) is not None:
        name, progress = resumed.pair.generator.name, state.progress
        logger.info("resuming from %s: epoch %d, step %d", name, progress.epoch, progress.step)
        return resumed
    base = chosen_base(state.config, options, encoder.name) if options.base else None
    if base is None:
        logger.warning("%s", without_base(state.config, wanted=options.base))
    else:
        load_base(state, base.generator, base.discriminator, where=str(base.folder))
        logger.info("starting from the base models in %s", base.folder)
    return None


def _with_silence(
    experiment: Experiment, state: TrainState, encoder: ContentEncoder, clips: Sequence[Clip]
) -> list[Clip]:
    """The clips to train on, silent ones included; the main process writes the file list and the silent clip."""
    speakers = {clip.speaker_id: None for clip in clips}
    mutes = [mute_clip(experiment.folder.parent, state.config, encoder, number) for number in speakers]
    together = [*clips, *(mute for mute in mutes for _ in range(MUTE_CLIPS))]
    with state.accelerator.main_process_first():
        if state.accelerator.is_main_process:
            make_mute_clip(mutes[0], state.config, encoder)
            experiment.write_file_list(together)
    return together


def _number_steps(state: TrainState, experiment: Experiment, batches_per_epoch: int) -> None:
    """For another program's experiment, start the step count above its checkpoints, so that none is overwritten."""
    progress = state.progress
    if progress.step == 0 and progress.epoch > 0:
        names = [path.stem[2:] for path in experiment.folder.glob("G_*.pth")]
        numbers = [int(name) for name in names if name.isdecimal() and int(name) != LATEST_NUMBER]
        progress.step = max([progress.epoch * batches_per_epoch, *numbers])
