"""The training loop: epochs of steps, with metrics, checkpoints, stop and resume.

A checkpoint is written whenever a run finishes or is stopped, and a resumed run continues at the exact step. A damaged
newest checkpoint is reported, and the one before it is used; training never restarts silently.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lib.errors import ConfigError
from lib.messages import Message
from lib.progress import Cancelled, Progress, no_progress
from train.distributed import any_process, explaining_lost_processes
from train.experiment import PLOT_NAME, Clip, Experiment
from train.history import describe_best, is_overtrained
from train.metrics import TensorBoard, plot_losses
from train.options import FitOptions
from train.pipeline import clips_have_changed, finished_training
from train.setup import Training, set_up
from train.state import begin_epoch
from train.step import train_step

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitReport:
    """The result of a training run."""

    epochs: int  # finished in total
    steps: int  # in total
    steps_per_second: float  # of this run; 0 if it was too short to measure
    mel_loss: float | None  # mean over the last logged interval
    voice: Path
    checkpoint: Path
    losses_plot: Path
    finished: bool  # all epochs are done
    skipped: bool = False  # they were done before
    best_voice: Path | None = None  # of the best epoch by the held-out recordings
    verdict: Message | None = None  # on the best epoch, and whether the voice is overtrained


def fit(
    experiment: Experiment,
    options: FitOptions,
    progress: Progress = no_progress,
    clips: Sequence[Clip] | None = None,
) -> FitReport:
    """Train until `options.epochs` are done in total, time is up, or the run is stopped; then save a checkpoint.

    Resumes from the newest checkpoint if there is one; does nothing if all epochs are done. If `clips` is None, the
    experiment's own clips are used.

    Raises ConfigError, CheckpointError, AudioError or MissingFileError before anything is changed if training cannot
    start; Cancelled, after saving, if the run is stopped; ConfigError if the loss becomes non-finite; and
    ProcessLostError if another process has died. Everything saved before an error is kept.
    """
    if (done := _finished(experiment, options)) is not None:
        return done
    with explaining_lost_processes(Message("Run the same command to resume from the last checkpoint.")):
        training = set_up(experiment, options, clips)
        try:
            train(training, progress)
        except Cancelled:
            training.save()
            raise
        finally:
            training.metrics.close()
        return _report(training)


def train(training: Training, progress: Progress = no_progress) -> None:
    """Train until all epochs are done or time is up, and save.

    Raises Cancelled, without saving, if the run is stopped.
    """
    state, options, batches = training.state, training.options, training.batches
    done, seconds_before, is_main = state.progress, state.progress.seconds, state.accelerator.is_main_process
    if is_main:
        training.experiment.stop_file.unlink(missing_ok=True)
        training.metrics.logger = TensorBoard(training.experiment.folder)
    # Every process has its own clock; that of the main process decides.
    (time_is_up,) = any_process(is_main and _time_is_up(training))
    while done.epoch < options.epochs and not time_is_up:
        begin_epoch(state)
        if done.batch >= len(batches):  # the clips or the batch size have changed since the checkpoint
            done.batch = 0
        for batch in batches.of_epoch(done.epoch, skip=done.batch):
            _check_stop(training, progress)
            losses = train_step(state, batch)
            _check_finite(training, losses)
            done.finish_batch(len(batches))  # before anything is saved, so that no epoch is done twice
            done.seconds = seconds_before + time.monotonic() - training.began
            training.metrics.add(done.step, done.epoch + 1, losses, state.optimizer_g.param_groups[0]["lr"])
            time_is_up, save_is_due = any_process(is_main and _time_is_up(training), is_main and _save_is_due(training))
            if save_is_due:
                training.save()
                time_is_up |= _stops_overtrained(training)
            if time_is_up:
                break
        if options.save_every_epochs and done.batch == 0 and done.epoch % options.save_every_epochs == 0:
            training.save()
            time_is_up |= _stops_overtrained(training)
    training.save()


def _stops_overtrained(training: Training) -> bool:
    """Whether all processes stop because the voice is overtrained and the user allowed it."""
    if not training.options.stop_when_overtrained:
        return False
    best = training.best  # of the main process
    return any_process(best is not None and is_overtrained(best.history))[0]


def _time_is_up(training: Training) -> bool:
    limit = training.options.max_minutes
    return limit is not None and time.monotonic() - training.began >= 60 * limit


def _save_is_due(training: Training) -> bool:
    return time.monotonic() - training.last_save > 60 * training.options.save_every_minutes


def _check_stop(training: Training, progress: Progress) -> None:
    """Report the progress; raise Cancelled in every process if one of them has been asked to stop."""
    stop_file = training.experiment.stop_file
    stop = training.state.accelerator.is_main_process and stop_file.exists()
    if stop:
        stop_file.unlink(missing_ok=True)
    try:
        progress(*_describe(training))
    except Cancelled:
        stop = True
    if any_process(stop)[0]:
        raise Cancelled


def _check_finite(training: Training, losses: dict[str, float]) -> None:
    """Raise ConfigError if a loss is not finite, before a checkpoint is written.

    In fp16, overflows are expected: the gradient scaler skips their steps.
    """
    totals = [value for name, value in losses.items() if name.endswith("/total")]
    if training.state.accelerator.scaler is not None or all(map(math.isfinite, totals)):
        return
    step, newest = training.state.progress.step, training.checkpoints.newest
    if newest is None:
        raise ConfigError(
            "The loss became non-finite (NaN or infinity) at step {step}. The checkpoints from before this run are "
            "unchanged. Continue with a lower --learning-rate or in fp32.", step=step,
        )  # fmt: skip
    raise ConfigError(
        "The loss became non-finite (NaN or infinity) at step {step}. The last good checkpoint is {path}. Continue "
        "with a lower --learning-rate or in fp32.", step=step, path=newest,
    )  # fmt: skip


def _describe(training: Training) -> tuple[int, int, str]:
    """Return the Progress arguments: (seconds, limit, text) if time is limited, otherwise (steps, total, text)."""
    done, mel, options = training.state.progress, training.metrics.shown_mel_loss, training.options
    epoch, step, speed = done.epoch + 1, done.step, f"{training.metrics.speed:.2f}"
    if mel is None:
        what = Message("training: epoch {epoch}, step {step}, {speed} steps/s", epoch=epoch, step=step, speed=speed)
    else:
        what = Message(
            "training: epoch {epoch}, step {step}, mel loss {mel}, {speed} steps/s",
            epoch=epoch, step=step, mel=f"{mel:.1f}", speed=speed,
        )  # fmt: skip
    if options.max_minutes is not None:
        total = round(60 * options.max_minutes)
        return min(round(time.monotonic() - training.began), total), total, what
    per_epoch = len(training.batches)
    return done.epoch * per_epoch + done.batch, options.epochs * per_epoch, what


def _finished(experiment: Experiment, options: FitOptions) -> FitReport | None:
    """The report of an experiment whose epochs are all done, else None."""
    if (finished := finished_training(experiment, options.epochs)) is None:
        return None
    epochs, steps, checkpoint = finished
    if clips_have_changed(experiment):
        logger.warning(
            "The clips have changed since all %d epochs were done, so the voice was not trained on the new ones. Train "
            "it for more epochs, for example with --epochs %d.", epochs, 2 * epochs,
        )  # fmt: skip
    plot = experiment.folder / PLOT_NAME
    return FitReport(epochs, steps, 0.0, None, experiment.voice, checkpoint, plot, finished=True, skipped=True)


def _report(training: Training) -> FitReport:
    """The report of this run; plots the losses of all runs of the experiment."""
    experiment, progress, metrics = training.experiment, training.state.progress, training.metrics
    plot = experiment.folder / PLOT_NAME
    with training.state.accelerator.main_process_first():
        if training.state.accelerator.is_main_process:
            plot_losses(metrics.events.read("fit"), plot)
    assert training.checkpoints.newest is not None
    return FitReport(
        epochs=progress.epoch,
        steps=progress.step,
        steps_per_second=metrics.speed,
        mel_loss=metrics.logged_mel_loss,
        voice=experiment.voice,
        checkpoint=training.checkpoints.newest,
        losses_plot=plot,
        finished=progress.epoch >= training.options.epochs,
        best_voice=training.best.voice if training.best else None,
        verdict=describe_best(training.best.history, training.best.voice) if training.best else None,
    )
