"""The training loop: epochs over batches, figures, checkpoints, stop and resume.

Spec: training, "Saving, resuming, finishing", with its defects mended: a checkpoint is written whenever a run ends, a
resumed run continues at the very step, and a damaged checkpoint is an error instead of a silent restart.
"""

import logging
import math
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import set_seed
from torch.utils.data import DataLoader

from lib.config import FamilyConfig
from lib.content import load_content_encoder
from lib.devices import choose_device
from lib.errors import ConfigError
from lib.progress import Cancelled, Progress, no_progress
from lib.voice.model_file import ContentEncoderId
from lib.voice.training_state import peek_progress
from train.base_models import find_base
from train.checkpoints import Keeper
from train.dataset import Batch, BucketSampler, ClipDataset, collate
from train.distributed import Processes, lost_processes_told
from train.estimate import default_batch_size
from train.experiment import Clip, Experiment
from train.extract import make_mute_clip, mute_clip
from train.metrics import Events, MetricLogger, TensorBoard, plot_losses
from train.options import FitOptions
from train.state import Trainer, make_accelerator

logger = logging.getLogger(__name__)

LOG_SECONDS = 15.0  # after which figures are written on a slow machine, whatever the step
MUTE_CLIPS = 2  # silent clips added to every training, as the ecosystem does
WARM_UP_STEPS = 3  # not counted in the speed
SHOWN_STEPS = 50  # over which the mel loss that is shown is averaged
LATEST_NUMBER = 2333333  # in the ecosystem's file names: "the latest", not a count
PLOT_NAME = "losses.png"


@dataclass(frozen=True)
class FitReport:
    """What a run of training did."""

    epochs: int  # finished in all
    steps: int  # in all
    steps_per_second: float  # of this run; 0 if it was too short to tell
    mel_loss: float | None  # mean over the last logged interval
    voice: Path
    checkpoint: Path
    losses_plot: Path
    finished: bool  # all epochs are done
    skipped: bool = False  # they were done before


def fit(
    experiment: Experiment,
    options: FitOptions,
    progress: Progress = no_progress,
    clips: Sequence[Clip] | None = None,
) -> FitReport:
    """Train until `options.epochs` are done in all, time is up, or the run is stopped; always leaves a checkpoint.

    Continues from the newest checkpoint if there is one; does nothing if all epochs are done. `clips` None trains on
    the experiment's own. Raises Cancelled after saving when stopped, ConfigError or CheckpointError before anything is
    changed, and ConfigError when the losses are no longer numbers; what was saved before then stays.
    """
    if (done := _finished(experiment, options)) is not None:
        return done
    with lost_processes_told("The same command continues from the last checkpoint."):
        run = _Run(experiment, options, clips)
        try:
            run.train(progress)
        except Cancelled:
            run.save()
            raise
        finally:
            run.close()
        return run.report()


def _finished(experiment: Experiment, options: FitOptions) -> FitReport | None:
    """The report of a training that needs nothing more, else None."""
    newest = experiment.newest_pair()
    if newest is None or not experiment.voice.is_file():
        return None
    epochs, steps = peek_progress(newest[0])
    if epochs < options.epochs:
        return None
    if experiment.stage("fit").get("made_from") != experiment.stage("extract").get("made_from"):
        logger.warning(
            "The clips have changed since the training, which had all its %d epochs: the voice has not learnt them. "
            "Go on with more epochs, for example --epochs %d.", epochs, 2 * epochs,
        )  # fmt: skip
    plot = experiment.folder / PLOT_NAME
    return FitReport(epochs, steps, 0.0, None, experiment.voice, newest[0], plot, finished=True, skipped=True)


class _Run:
    """One call of `fit`: what was loaded for it and what it has counted."""

    def __init__(self, experiment: Experiment, options: FitOptions, clips: Sequence[Clip] | None) -> None:
        self.experiment = experiment
        self.options = options
        self.config = config = self._config()
        self._check_voice_is_ours()
        device = choose_device(options.device)
        logger.info("device: %s (%s)", device.device, device.reason)
        known = experiment.stage("fit").get("precision", "auto") if options.precision == "auto" else options.precision
        self.accelerator = make_accelerator(known, device.device)
        self.processes = Processes(PartialState())
        self.config = config = self._with_batch_size(config)
        set_seed(options.seed + self.processes.index)  # noise of its own for each; the weights are the first's
        encoder_name = experiment.stage("extract").get("content_encoder")
        self.encoder = load_content_encoder(config.family, self.accelerator.device, encoder_name)
        self.trainer = Trainer(config, self.accelerator, options.learning_rate)
        self._start_weights()
        self.dataset = ClipDataset(self._clips(clips), config, options.seed)
        self.sampler = BucketSampler(self.dataset.lengths(), config.train.batch_size * self.processes.count)
        self.loader = self._loader()
        self._number_steps()
        self.events = Events(experiment.events)
        self.metrics: MetricLogger | None = None
        self.begin = self.last_save = self.last_log = time.monotonic()
        self.steps_before = self.trainer.position.step
        self.seconds_before = self.trainer.position.seconds
        self.over = False  # time is up
        self.counted: tuple[float, int] | None = None  # time and step from which speed is measured
        self.mel_losses: deque[float] = deque(maxlen=max(SHOWN_STEPS, config.train.log_interval))
        self.keeper = Keeper(experiment, options, config, ContentEncoderId(self.encoder.name, self.encoder.sha256))

    # --- setting up ------------------------------------------------------------------------------------------------

    def _config(self) -> FamilyConfig:
        config = self.experiment.config()
        if self.options.speaker_id >= config.synthesizer.n_speakers:
            raise ConfigError(
                f"The speaker id {self.options.speaker_id} does not exist in the family {config.family}; it has "
                f"{config.synthesizer.n_speakers} speakers, 0 to {config.synthesizer.n_speakers - 1}."
            )
        return config

    def _with_batch_size(self, config: FamilyConfig) -> FamilyConfig:
        """The configuration with the batch size per device: what is asked for, else as before, else by memory."""
        size = self.options.batch_size or self.experiment.stage("fit").get("batch_size")
        size = size or self.processes.least(default_batch_size(config, self.accelerator.device))
        logger.info("batch size: %d clips per step on each of %d device(s)", size, self.processes.count)
        return config.model_copy(update={"train": config.train.model_copy(update={"batch_size": size})})

    def _check_voice_is_ours(self) -> None:
        """Refuse to replace a voice that this experiment did not make."""
        if self.experiment.voice.exists() and not self.experiment.stage("fit").get("voice"):
            raise ConfigError(
                f"{self.experiment.voice} exists and was not made by the experiment {self.experiment.name!r}. Rename "
                "it, or choose another experiment name."
            )

    def _start_weights(self) -> None:
        newest = self.experiment.newest_pair()
        if newest is not None:
            self.trainer.resume(*newest)
            position = self.trainer.position
            logger.info("continuing from %s: epoch %d, step %d", newest[0].name, position.epoch, position.step)
            return
        base = find_base(self.config) if self.options.base else None
        if base is None:
            logger.info("training from scratch%s", "" if not self.options.base else ": no base models found")
        else:
            self.trainer.load_base(base.generator, base.discriminator, where=str(base.folder))
            logger.info("starting from the base models in %s", base.folder)

    def _number_steps(self) -> None:
        """Give a training of another program a step count above all its checkpoints, so that none is replaced."""
        position = self.trainer.position
        if position.step == 0 and position.epoch > 0:
            names = [path.stem[2:] for path in self.experiment.folder.glob("G_*.pth")]
            numbers = [int(name) for name in names if name.isdecimal() and int(name) != LATEST_NUMBER]
            position.step = max([position.epoch * len(self.sampler), *numbers])

    def _clips(self, given: Sequence[Clip] | None) -> list[Clip]:
        clips = self.experiment.clips(speaker_id=self.options.speaker_id) if given is None else list(given)
        mute = mute_clip(self.experiment.folder.parent, self.config, self.encoder, self.options.speaker_id)
        clips += [mute] * MUTE_CLIPS
        with self.processes.first_alone():
            if self.processes.first:
                make_mute_clip(mute, self.config, self.encoder)
                self.experiment.write_file_list(clips)
        return clips

    def _loader(self) -> "DataLoader[Batch]":
        workers = self.options.workers
        if workers is None:
            workers = 2 if self.accelerator.device.type == "cuda" else 0
        loader = DataLoader(
            self.dataset,
            batch_sampler=self.sampler,
            collate_fn=_Collate(self.config),
            num_workers=workers,
            pin_memory=self.accelerator.device.type == "cuda",
            worker_init_fn=_ignore_interrupt,
            generator=torch.Generator(),  # else every epoch would draw from the generator that noise comes from
        )
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    # --- the loop --------------------------------------------------------------------------------------------------

    def train(self, progress: Progress) -> None:
        """Run to the end of the epochs or of the time."""
        if self.processes.first:
            self.experiment.stop_file.unlink(missing_ok=True)
            self.metrics = TensorBoard(self.experiment.folder)
        position = self.trainer.position
        self.over = self.processes.any(self.processes.first and self._time_is_up())[0]
        while position.epoch < self.options.epochs and not self.over:
            self._epoch(progress)
        self.save()

    def _epoch(self, progress: Progress) -> None:
        position = self.trainer.position
        rate = self.trainer.begin_epoch()
        for batch in self._batches():
            self._check_stop(progress)
            found = self.trainer.train_step(batch)
            self._check_finite(found)
            position.batch += 1
            if position.batch == len(self.sampler):  # before anything is saved, so that no epoch is done twice
                position.epoch, position.batch = position.epoch + 1, 0
            position.seconds = self.seconds_before + time.monotonic() - self.begin
            self.mel_losses.append(found["loss/g/mel"])
            self._count_speed()
            if self.metrics is not None and self._log_is_due():
                self._log(self.metrics, found | {"learning_rate": rate})
            due = time.monotonic() - self.last_save > 60 * self.options.save_every_minutes
            # Each process has a clock of its own; the first one's counts.
            self.over, due = self.processes.any(*(self.processes.first and wish for wish in (self._time_is_up(), due)))
            if due:
                self.save()
            if self.over:
                break
        every = self.options.save_every_epochs
        if every and position.batch == 0 and position.epoch % every == 0:
            self.save()

    def _batches(self) -> Iterator[Batch]:
        """The batches of the current epoch that are not yet done."""
        position = self.trainer.position
        self.sampler.epoch = self.dataset.epoch = position.epoch + 1  # the ecosystem counts epochs from 1
        if position.batch >= len(self.sampler):  # the data or the batch size changed since the checkpoint
            position.batch = 0
        self.sampler.skip = position.batch
        state = torch.get_rng_state()
        for i, batch in enumerate(self.loader):
            if i == 0:
                torch.set_rng_state(state)  # starting a loader may draw; the noise of a resumed run must not notice
            yield Batch(*batch)

    def _check_stop(self, progress: Progress) -> None:
        """Raise Cancelled in every process if one of them is to stop."""
        wish = self.processes.first and self.experiment.stop_file.exists()
        if wish:
            self.experiment.stop_file.unlink(missing_ok=True)
        try:
            progress(*self._told())
        except Cancelled:
            wish = True
        if self.processes.any(wish)[0]:
            raise Cancelled

    def _check_finite(self, found: dict[str, float]) -> None:
        """Stop before a broken network replaces a good checkpoint; with fp16 single overflows are normal."""
        losses = (found["loss/g/total"], found["loss/d/total"])
        if self.accelerator.scaler is None and not all(map(math.isfinite, losses)):
            raise ConfigError(
                f"The losses are no longer numbers at step {self.trainer.position.step}. The last good checkpoint is "
                f"{self.keeper.saved or 'the one this run began with'}; go on with a lower --learning-rate or in fp32."
            )

    def _log_is_due(self) -> bool:
        """Every so many steps, and on a slow machine in between, so that one sees how it goes."""
        slow = time.monotonic() - self.last_log > LOG_SECONDS
        return slow or self.trainer.position.step % self.config.train.log_interval == 0

    def _time_is_up(self) -> bool:
        limit = self.options.max_minutes
        return limit is not None and time.monotonic() - self.begin >= 60 * limit

    def _count_speed(self) -> None:
        if self.counted is None and self.trainer.position.step >= self.steps_before + WARM_UP_STEPS:
            self.counted = (time.monotonic(), self.trainer.position.step)

    def speed(self) -> float:
        """Steps per second of this run, 0 while unknown."""
        if self.counted is None or self.trainer.position.step == self.counted[1]:
            return 0.0
        return (self.trainer.position.step - self.counted[1]) / (time.monotonic() - self.counted[0])

    def _told(self) -> tuple[int, int, str]:
        """What the Progress is told: seconds if time is limited, else steps."""
        position, recent = self.trainer.position, list(self.mel_losses)[-SHOWN_STEPS:]
        mel = f", mel loss {sum(recent) / len(recent):.1f}" if recent else ""
        what = f"training: epoch {position.epoch + 1}, step {position.step}{mel}, {self.speed():.2f} steps/s"
        if self.options.max_minutes is not None:
            total = round(60 * self.options.max_minutes)
            return min(round(time.monotonic() - self.begin), total), total, what
        per_epoch = len(self.sampler)
        return position.epoch * per_epoch + position.batch, self.options.epochs * per_epoch, what

    def _log(self, metrics: MetricLogger, found: dict[str, float]) -> None:
        position, self.last_log = self.trainer.position, time.monotonic()
        metrics.log(position.step, found)
        interval = list(self.mel_losses)[-self.config.train.log_interval :]
        parts = ("loss/d_r/", "loss/d_g/")
        named = {name: round(value, 5) for name, value in found.items() if not name.startswith(parts)}
        named["loss/g/mel"] = round(sum(interval) / len(interval), 4)
        self.events.write(
            "fit", position.step, 0, epoch=position.epoch + 1, losses=named, steps_per_second=round(self.speed(), 3)
        )

    # --- what is kept ----------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write checkpoints, voice and sample if there was a step since; every process calls it, the first writes."""
        self.last_save = time.monotonic()
        self.keeper.save(self.trainer, self.dataset)

    def close(self) -> None:
        """Finish the figures."""
        if self.metrics is not None:
            self.metrics.close()

    def report(self) -> FitReport:
        """What this run did; draws the losses of all runs of the experiment."""
        plot = self.experiment.folder / PLOT_NAME
        with self.processes.first_alone():
            if self.processes.first:
                plot_losses(self.events.read("fit"), plot)
        recent = list(self.mel_losses)[-self.config.train.log_interval :]
        assert self.keeper.saved is not None
        return FitReport(
            epochs=self.trainer.position.epoch,
            steps=self.trainer.position.step,
            steps_per_second=self.speed(),
            mel_loss=sum(recent) / len(recent) if recent else None,
            voice=self.experiment.voice,
            checkpoint=self.keeper.saved,
            losses_plot=plot,
            finished=self.trainer.position.epoch >= self.options.epochs,
        )


def _ignore_interrupt(worker: int) -> None:
    """Let Ctrl-C reach only the training itself, which saves; a loader that died would look like an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Collate:
    """`collate` with its configuration; a class, because worker processes must be able to receive it."""

    def __init__(self, config: FamilyConfig) -> None:
        self.config = config

    def __call__(self, items: Any) -> Batch:
        return collate(items, self.config)
