"""One clip as the voice says it at each save, so that one can hear how a training goes."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.audio import save_audio

if TYPE_CHECKING:
    from train.dataset import ClipDataset
    from train.trainer import Trainer

FOLDER = "samples"
KEPT = 20  # files; the oldest are deleted


def write_sample(trainer: "Trainer", dataset: "ClipDataset", folder: Path) -> Path:
    """Convert the dataset's first clip into folder/samples/step_NNNNNNN.flac and return the file.

    The randomness of the training is not touched.
    """
    import torch

    from train.dataset import collate

    batch = collate([dataset[0]], dataset.config).to(trainer.accelerator.device)
    network, rng = trainer.synthesizer, torch.Generator(trainer.accelerator.device).manual_seed(0)
    bins, f0 = (batch.pitch_bins, batch.f0) if dataset.config.synthesizer.has_f0 else (None, None)
    network.eval()
    try:
        with torch.no_grad():
            audio = network.infer(batch.content, batch.lengths, batch.speaker_id, bins, f0, rng)
    finally:
        network.train()
    path = folder / FOLDER / f"step_{trainer.position.step:07d}.flac"
    path.parent.mkdir(exist_ok=True)
    save_audio(path, audio[0, 0].float().clamp(-1, 1).cpu().numpy(), dataset.config.audio.sample_rate)
    for old in list_samples(folder)[:-KEPT]:
        old.unlink()
    return path


def list_samples(folder: Path) -> list[Path]:
    """The samples of an experiment's folder, the newest last."""
    return sorted((folder / FOLDER).glob("step_*.flac"))
