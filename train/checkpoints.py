"""What a training leaves on disk: pairs of checkpoints, the voice, a listening sample. The first process writes."""

import logging
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.audio.encode import save_audio
from lib.config import FamilyConfig
from lib.errors import RevoiceError
from lib.files import replacing
from lib.voice.model_file import SPEAKER_NAMES, ContentEncoderId, extract_voice_model, write_voice_model
from train.experiment import SAMPLES_FOLDER, Experiment, list_samples
from train.options import FitOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from train.dataset import ClipDataset
    from train.state import Trainer

logger = logging.getLogger(__name__)

PRECISION_NAMES = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}  # Accelerate's to ours
MAX_SAMPLES = 20  # files; the oldest are deleted


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


def write_sample(trainer: "Trainer", dataset: "ClipDataset", folder: Path) -> Path:
    """Convert the dataset's first clip into folder/samples/step_NNNNNNN.flac and return the file.

    A .png of that name shows the mel spectrograms of the clip and, below it, of the sample.

    The randomness of the training is not touched.
    """
    import torch

    from lib.audio.mel import log_mel
    from train.dataset import collate

    clip = collate([dataset[0]], dataset.config)
    real, batch = clip.audio[0], clip.to(trainer.accelerator.device)
    network, rng = trainer.voice, torch.Generator(trainer.accelerator.device).manual_seed(0)
    bins, f0 = (batch.pitch_bins, batch.f0) if dataset.config.synthesizer.has_f0 else (None, None)
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            audio = network.infer(batch.content, batch.lengths, batch.speaker_id, bins, f0, rng)
    finally:
        network.train(training)
    path = folder / SAMPLES_FOLDER / f"step_{trainer.position.step:07d}.flac"
    path.parent.mkdir(exist_ok=True)
    made = audio[0].float().clamp(-1, 1).cpu()
    save_audio(path, made[0].numpy(), dataset.config.audio.sample_rate)
    _draw(path.with_suffix(".png"), [log_mel(sound, dataset.config.audio)[0].numpy() for sound in (real, made)])
    for old in list_samples(folder)[:-MAX_SAMPLES]:
        old.unlink()
        old.with_suffix(".png").unlink(missing_ok=True)
    return path


def _draw(path: Path, mels: "Sequence[npt.NDArray[np.float32]]") -> None:
    """Write log-mel spectrograms (bands, F) as a PNG, one below the other, low frequencies at the bottom."""
    from matplotlib.figure import Figure  # no pyplot: it would keep a global state

    figure = Figure(figsize=(8, 5), layout="constrained")
    low, high = mels[0].min(), mels[0].max()
    for axes, mel in zip(figure.subplots(len(mels), 1), mels, strict=True):
        axes.imshow(mel, origin="lower", aspect="auto", vmin=low, vmax=high, cmap="magma")
        axes.set_axis_off()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=80)
