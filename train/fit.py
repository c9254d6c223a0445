"""The training loop: epochs over batches, figures, checkpoints, stop and resume.

Spec: training, "Saving, resuming, finishing", with its defects mended: a checkpoint is written whenever a run ends, a
resumed run continues at the very step, and a damaged checkpoint is an error instead of a silent restart.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from lib.checkpoint import ContentEncoderId, Weights, extract_voice_model, peek_progress, write_voice_model
from lib.config import FamilyConfig
from lib.content import load_content_encoder
from lib.devices import choose_device
from lib.errors import ConfigError
from lib.paths import PRETRAINED
from lib.progress import Cancelled, Progress, no_progress
from train.dataset import Batch, BucketSampler, ClipDataset, collate
from train.experiment import Clip, Experiment
from train.extract import mute_clip
from train.metrics import Events, MetricLogger, TensorBoard, plot_losses
from train.options import FitOptions
from train.trainer import Trainer, make_accelerator

logger = logging.getLogger(__name__)

MUTE_CLIPS = 2  # silent clips added to every training, as the ecosystem does
WARM_UP_STEPS = 3  # not counted in the speed


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


def fit(
    experiment: Experiment,
    options: FitOptions,
    progress: Progress = no_progress,
    clips: Sequence[Clip] | None = None,
) -> FitReport:
    """Train until `options.epochs` are done in all, time is up, or the run is stopped; always leaves a checkpoint.

    Continues from the newest checkpoint if there is one. `clips` None trains on the experiment's own. Raises Cancelled
    after saving when stopped, and ConfigError or CheckpointError before anything is changed.
    """
    run = _Run(experiment, options, clips)
    try:
        run.train(progress)
    except Cancelled:
        run.save()
        raise
    return run.report()


class _Run:
    """One call of `fit`: what was loaded for it and what it has counted."""

    def __init__(self, experiment: Experiment, options: FitOptions, clips: Sequence[Clip] | None) -> None:
        self.experiment = experiment
        self.options = options
        self.config = config = self._config()
        self._check_voice_is_ours()
        device = choose_device(options.device)
        logger.info("device: %s (%s)", device.device, device.reason)
        self.accelerator = make_accelerator(options.precision, device.device)
        set_seed(options.seed + self.accelerator.process_index)
        self.encoder = load_content_encoder(config.family, device.device)
        self.trainer = Trainer(config, self.accelerator, options.learning_rate)
        self._start_weights()
        self.dataset = ClipDataset(self._clips(clips), config, options.seed)
        self.sampler = BucketSampler(self.dataset.lengths(), config.train.batch_size)
        self.loader = self._loader()
        self.events = Events(experiment.events)
        self.metrics: MetricLogger | None = None
        self.begin = self.last_save = time.monotonic()
        self.steps_before = self.trainer.position.step
        self.seconds_before = self.trainer.position.seconds
        self.counted: tuple[float, int] | None = None  # time and step from which speed is measured
        self.mel_losses: list[float] = []
        self.saved: Path | None = None

    # --- setting up ------------------------------------------------------------------------------------------------

    def _config(self) -> FamilyConfig:
        config = self.experiment.config()
        if self.options.speaker_id >= config.synthesizer.n_speakers:
            raise ConfigError(
                f"The speaker id {self.options.speaker_id} does not exist in the family {config.family}; it has "
                f"{config.synthesizer.n_speakers} speakers, 0 to {config.synthesizer.n_speakers - 1}."
            )
        if self.options.batch_size is None:
            return config
        train = config.train.model_copy(update={"batch_size": self.options.batch_size})
        return config.model_copy(update={"train": train})

    def _check_voice_is_ours(self) -> None:
        """Refuse to replace a voice that this experiment did not make."""
        if self.experiment.voice.exists() and not self.experiment.stage("fit").get("voice"):
            raise ConfigError(
                f"{self.experiment.voice} exists and was not made by the experiment {self.experiment.name!r}. Rename "
                "it, or choose another experiment name."
            )

    def _start_weights(self) -> None:
        pairs = self.experiment.checkpoint_pairs()
        if pairs:
            newest = max(pairs, key=lambda pair: peek_progress(pair[0]))
            self.trainer.resume(*newest)
            position = self.trainer.position
            logger.info("continuing from %s: epoch %d, step %d", newest[0].name, position.epoch, position.step)
            return
        base = find_base(self.config) if self.options.base else None
        if base is None:
            logger.info("training from scratch%s", "" if not self.options.base else ": no base models found")
        else:
            self.trainer.load_base(*base, where=f"pretrained/{self.config.family}")
            logger.info("starting from the base models of the family %s", self.config.family)

    def _clips(self, given: Sequence[Clip] | None) -> list[Clip]:
        clips = self.experiment.clips(speaker_id=self.options.speaker_id) if given is None else list(given)
        mute = mute_clip(self.experiment.folder.parent, self.config, self.encoder, self.options.speaker_id)
        clips += [mute] * MUTE_CLIPS
        if self.accelerator.is_main_process:
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
            generator=torch.Generator(),  # else every epoch would draw from the generator that noise comes from
        )
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    # --- the loop --------------------------------------------------------------------------------------------------

    def train(self, progress: Progress) -> None:
        """Run to the end of the epochs or of the time."""
        self.experiment.stop_file.unlink(missing_ok=True)
        if self.accelerator.is_main_process:
            self.metrics = TensorBoard(self.experiment.folder)
        position = self.trainer.position
        try:
            while position.epoch < self.options.epochs and not self._time_is_up():
                self._epoch(progress)
        finally:
            if self.metrics is not None:
                self.metrics.close()
        self.save()

    def _epoch(self, progress: Progress) -> None:
        position = self.trainer.position
        rate = self.trainer.begin_epoch()
        for batch in self._batches():
            self._check_stop()
            progress(*self._told())
            found = self.trainer.train_step(batch)
            position.batch += 1
            position.seconds = self.seconds_before + time.monotonic() - self.begin
            self.mel_losses.append(found["loss/g/mel"])
            self._count_speed()
            if position.step % self.config.train.log_interval == 0:
                self._log(found | {"learning_rate": rate})
            if time.monotonic() - self.last_save > 60 * self.options.save_every_minutes:
                self.save()
            if self._time_is_up():
                return
        position.epoch, position.batch = position.epoch + 1, 0
        if self.options.save_every_epochs and position.epoch % self.options.save_every_epochs == 0:
            self.save()

    def _batches(self) -> Iterator[Batch]:
        """The batches of the current epoch that are not yet done."""
        position = self.trainer.position
        self.sampler.epoch = self.dataset.epoch = position.epoch + 1  # the ecosystem counts epochs from 1
        if position.batch >= len(self.loader):  # the data or the batch size changed since the checkpoint
            position.batch = 0
        self.sampler.skip = position.batch * self.accelerator.num_processes
        state = torch.get_rng_state()
        for i, batch in enumerate(self.loader):
            if i == 0:
                torch.set_rng_state(state)  # starting a loader may draw; the noise of a resumed run must not notice
            yield Batch(*batch)

    def _check_stop(self) -> None:
        if self.experiment.stop_file.exists():
            self.experiment.stop_file.unlink(missing_ok=True)
            raise Cancelled

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
        position, recent = self.trainer.position, self.mel_losses[-50:]
        mel = f", mel loss {sum(recent) / len(recent):.1f}" if recent else ""
        what = f"training: epoch {position.epoch + 1}, step {position.step}{mel}, {self.speed():.2f} steps/s"
        if self.options.max_minutes is not None:
            total = round(60 * self.options.max_minutes)
            return min(round(time.monotonic() - self.begin), total), total, what
        per_epoch = len(self.sampler) // self.accelerator.num_processes
        return position.epoch * per_epoch + position.batch, self.options.epochs * per_epoch, what

    def _log(self, found: dict[str, float]) -> None:
        if self.metrics is None:
            return
        position = self.trainer.position
        self.metrics.log(position.step, found)
        interval = self.mel_losses[-self.config.train.log_interval :]
        named = {name: round(value, 5) for name, value in found.items() if name.count("/") < 3 or "/g/" in name}
        named["loss/g/mel"] = round(sum(interval) / len(interval), 4)
        self.events.write(
            "fit", position.step, 0, epoch=position.epoch + 1, losses=named, steps_per_second=round(self.speed(), 3)
        )

    # --- what is kept ----------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the pair of checkpoints and the voice, then remove the oldest of our own checkpoints."""
        self.last_save = time.monotonic()
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        position, folder = self.trainer.position, self.experiment.folder
        generator, discriminator = (folder / f"{letter}_{position.step}.pth" for letter in "GD")
        self.trainer.save(generator, discriminator)
        self._save_voice()
        written = [name for name in self.experiment.stage("fit").get("checkpoints", []) if name != position.step]
        written.append(position.step)
        for step in written[: -self.options.keep_checkpoints]:
            for letter in "GD":
                (folder / f"{letter}_{step}.pth").unlink(missing_ok=True)
        self.experiment.record_stage(
            "fit", voice=str(self.experiment.voice), checkpoints=written[-self.options.keep_checkpoints :]
        )
        self.saved = generator

    def _save_voice(self) -> None:
        position = self.trainer.position
        encoder = ContentEncoderId(self.encoder.name, self.encoder.sha256)
        voice = extract_voice_model(self.trainer.synthesizer, self.config.family, f"{position.epoch}epoch", encoder)
        facts: dict[str, Any] = {"epoch": position.epoch, "step": position.step}
        facts |= {"training_f0": self.experiment.stage("extract").get("f0_range")}
        voice.extra.update({key: value for key, value in facts.items() if value is not None})
        write_voice_model(self.experiment.voice, voice)
        if self.options.save_every_voice:
            name = f"{self.experiment.name}_e{position.epoch}_s{position.step}.pth"
            write_voice_model(self.experiment.voice.with_name(name), voice)

    def report(self) -> FitReport:
        """What this run did; draws the losses of all runs of the experiment."""
        plot = self.experiment.folder / "losses.png"
        plot_losses(self.events.read("fit"), plot)
        recent = self.mel_losses[-self.config.train.log_interval :]
        assert self.saved is not None
        return FitReport(
            epochs=self.trainer.position.epoch,
            steps=self.trainer.position.step,
            steps_per_second=self.speed(),
            mel_loss=sum(recent) / len(recent) if recent else None,
            voice=self.experiment.voice,
            checkpoint=self.saved,
            losses_plot=plot,
            finished=self.trainer.position.epoch >= self.options.epochs,
        )


class _Collate:
    """`collate` with its configuration; a class, because worker processes must be able to receive it."""

    def __init__(self, config: FamilyConfig) -> None:
        self.config = config

    def __call__(self, items: Any) -> Batch:
        return collate(items, self.config)


def find_base(config: FamilyConfig, root: Path = PRETRAINED) -> tuple[Weights, Weights] | None:
    """The base generator and discriminator of a family, or None where they are not present or do not exist."""
    if config.family != "lite" or not config.synthesizer.has_f0:
        return None
    files = [root / "lite" / f"{letter}.safetensors" for letter in "GD"]
    if not all(file.is_file() for file in files):
        return None
    generator, discriminator = (load_file(file) for file in files)
    return generator, discriminator
