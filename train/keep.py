"""What a training leaves on disk: pairs of checkpoints, the voice, a listening sample. The first process writes."""

import logging
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.config import FamilyConfig
from lib.errors import RevoiceError
from lib.voice.model_file import SPEAKER_NAMES, ContentEncoderId, extract_voice_model, write_voice_model
from train.experiment import Experiment
from train.options import FitOptions
from train.samples import write_sample

if TYPE_CHECKING:
    from train.dataset import ClipDataset
    from train.trainer import Trainer

logger = logging.getLogger(__name__)

PRECISION_NAMES = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}  # Accelerate's to ours


class Keeper:
    """Saves what a run has reached; knows what it saved last."""

    def __init__(
        self, experiment: Experiment, options: FitOptions, config: FamilyConfig, encoder: ContentEncoderId
    ) -> None:
        self.experiment = experiment
        self.options = options
        self.config = config
        self.encoder = encoder
        self.saved: Path | None = None  # the last generator checkpoint of this run
        self._saved_step = -1

    def save(self, trainer: "Trainer", dataset: "ClipDataset") -> None:
        """Write the pair of checkpoints and the voice, then remove the oldest of our own checkpoints."""
        position, folder = trainer.position, self.experiment.folder
        if position.step in (0, self._saved_step):
            return
        generator, discriminator = (folder / f"{letter}_{position.step}.pth" for letter in "GD")
        trainer.save(generator, discriminator)
        self.saved, self._saved_step = generator, position.step
        if not trainer.processes.first:
            return
        known = [step for step in self.experiment.stage("fit").get("checkpoints", []) if step != position.step]
        kept = [*known, position.step][-self.options.keep_checkpoints :]
        self.experiment.record_stage(
            "fit",
            voice=str(self.experiment.voice),
            checkpoints=kept,
            precision=PRECISION_NAMES[trainer.accelerator.mixed_precision],
            batch_size=self.config.train.batch_size,
            made_from=self.experiment.stage("extract").get("made_from"),
        )
        self._save_voice(trainer)
        for step in set(known) - set(kept):
            for letter in "GD":
                (folder / f"{letter}_{step}.pth").unlink(missing_ok=True)
        try:
            write_sample(trainer, dataset, folder)
        except (RevoiceError, OSError) as error:  # it is only for listening
            logger.warning("no listening sample was written: %s", error)

    def _save_voice(self, trainer: "Trainer") -> None:
        position = trainer.position
        voice = extract_voice_model(trainer.voice, self.config.family, f"{position.epoch}epoch", self.encoder)
        facts: dict[str, Any] = {"epoch": position.epoch, "step": position.step}
        facts[SPEAKER_NAMES] = {str(self.options.speaker_id): self.experiment.name}
        extracted = self.experiment.stage("extract")
        facts |= {"training_f0": extracted.get("f0_range")}
        facts |= {"interpolate_unvoiced": extracted.get("interpolate_unvoiced") or None}
        facts |= {"creation_date": datetime.now(timezone.utc).isoformat(timespec="seconds")}
        if seconds := self.experiment.stage("prepare").get("seconds"):
            facts["dataset_length"] = str(timedelta(seconds=round(seconds))).zfill(8)  # HH:MM:SS
        voice.extra.update({key: value for key, value in facts.items() if value is not None})
        write_voice_model(self.experiment.voice, voice)
        if self.options.save_every_voice:
            name = f"{self.experiment.name}_e{position.epoch}_s{position.step}.pth"
            write_voice_model(self.experiment.voice.with_name(name), voice)
