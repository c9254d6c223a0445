"""One clip as the voice says it at each save, so that one can hear how a training goes."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.audio.encode import save_audio
from lib.files import replacing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from train.dataset import ClipDataset
    from train.trainer import Trainer

FOLDER = "samples"
KEPT = 20  # files; the oldest are deleted


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
    path = folder / FOLDER / f"step_{trainer.position.step:07d}.flac"
    path.parent.mkdir(exist_ok=True)
    made = audio[0].float().clamp(-1, 1).cpu()
    save_audio(path, made[0].numpy(), dataset.config.audio.sample_rate)
    _draw(path.with_suffix(".png"), [log_mel(sound, dataset.config.audio)[0].numpy() for sound in (real, made)])
    for old in list_samples(folder)[:-KEPT]:
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


def list_samples(folder: Path) -> list[Path]:
    """The samples of an experiment's folder, the newest last."""
    return sorted((folder / FOLDER).glob("step_*.flac"))
