"""Finds the best epoch of a training run: measures the voice on the held-out recordings at every checkpoint.

The voice of the best epoch is exported.
"""

import logging
from pathlib import Path

import torch

from lib.errors import RevoiceError
from lib.files import copy_file
from train.experiment import Experiment, list_samples
from train.held_out import RECORD, HeldOut, to_event
from train.history import STAGE, Evaluation, best_of, describe_best, is_overtrained, read_history
from train.metrics import Events, MetricLogger
from train.state import TrainState

logger = logging.getLogger(__name__)


class BestEpoch:
    """Measures the voice of a run on its held-out recordings and keeps the best one; runs in the main process only."""

    def __init__(self, experiment: Experiment, held_out: HeldOut, step: int) -> None:
        """`step` is the first step of the run; later evaluations are discarded, because it repeats their steps."""
        self.experiment = experiment
        self.held_out = held_out
        self.history = read_history(Events(experiment.events).read(STAGE), step)
        self._warned = False

    @property
    def voice(self) -> Path | None:
        """Path of the best epoch's voice so far; None if there is none."""
        name = self.experiment.stage(RECORD).get("voice")
        path = self.experiment.voice.with_name(name) if name else None
        return path if path is not None and path.is_file() else None

    def update(self, state: TrainState, metrics: MetricLogger | None = None) -> None:
        """Measure the voice, which has just been exported; a failure is logged, and training continues."""
        step = state.progress.step
        if self.history and self.history[-1].step == step:
            return
        try:
            found = self.held_out.evaluate(state.voice, state.accelerator.device, step, state.progress.epoch)
            self.history.append(found)
            Events(self.experiment.events).write(STAGE, step, 0, **to_event(found))
            if metrics is not None:
                _log(metrics, found, self.experiment.folder)
            if best_of(self.history) is found or self.voice is None:
                self._keep(found)
        except (RevoiceError, OSError, torch.OutOfMemoryError) as error:
            logger.warning("the held-out recordings could not be evaluated: %s", error)
            return
        if is_overtrained(self.history) and not self._warned:
            self._warned = True
            logger.warning("%s", describe_best(self.history, self.voice))

    def _keep(self, found: Evaluation) -> None:
        """Copy the exported voice to a name with its epoch and step, as other programs do; delete the previous best."""
        before, voice = self.voice, self.experiment.voice
        path = voice.with_name(f"{self.experiment.name}_e{found.epoch}_s{found.step}_best_epoch{voice.suffix}")
        copy_file(voice, path)
        self.experiment.update_record({RECORD: self.experiment.stage(RECORD) | {"voice": path.name}})
        if before is not None and before != path:
            before.unlink(missing_ok=True)


def _log(metrics: MetricLogger, found: Evaluation, folder: Path) -> None:
    """Log the metrics, and the sample of this step with its mel spectrograms."""
    facts = {name: value for name, value in to_event(found).items() if name != "epoch" and value is not None}
    metrics.log(found.step, {f"{STAGE}/{name}": value for name, value in facts.items()})
    samples = list_samples(folder)
    if samples and samples[-1].stem == f"step_{found.step:07d}":
        metrics.log_sample(found.step, STAGE, samples[-1])
