"""Reconstructions of training or held-out clips by the current network: audio samples and their spectrograms."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lib.audio.encode import save_audio
from lib.audio.mel import log_mel
from lib.files import replacing
from lib.typing import FloatArray
from lib.voice.infer_config import Network
from train.dataset import ClipDataset, collate
from train.experiment import SAMPLES_FOLDER, list_samples

MAX_SAMPLES = 20  # files; the oldest are deleted


def convert_clip(network: Network, dataset: ClipDataset, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a clip of the dataset, and its reconstruction by the network: [1, T] each, on the CPU.

    The random state of training does not change.
    """
    clip = collate([dataset[number]], dataset.config)
    batch, rng = clip.to(device), torch.Generator().manual_seed(0)
    bins, f0 = (batch.pitch_bins, batch.f0) if dataset.config.synthesizer.has_f0 else (None, None)
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            audio = network.infer(batch.content, batch.lengths, batch.speaker_id, bins, f0, rng)
    finally:
        network.train(training)
    return clip.audio[0], audio[0].float().clamp(-1, 1).cpu()


def write_sample(network: Network, dataset: ClipDataset, folder: Path, step: int, device: torch.device) -> Path:
    """Reconstruct the dataset's first clip into folder/samples/step_NNNNNNN.flac and return the file.

    A .png of the same name shows the mel spectrograms of the clip (above) and of the sample (below).
    """
    real, sample = convert_clip(network, dataset, 0, device)
    path = folder / SAMPLES_FOLDER / f"step_{step:07d}.flac"
    path.parent.mkdir(exist_ok=True)
    save_audio(path, sample[0].numpy(), dataset.config.audio.sample_rate)
    _draw(path.with_suffix(".png"), [log_mel(sound, dataset.config.audio)[0].numpy() for sound in (real, sample)])
    for old in list_samples(folder)[:-MAX_SAMPLES]:
        old.unlink()
        old.with_suffix(".png").unlink(missing_ok=True)
    return path


def _draw(path: Path, mels: Sequence[FloatArray]) -> None:
    """Write log-mel spectrograms (bands, F) as a PNG, one below the other, low frequencies at the bottom."""
    from matplotlib.figure import Figure  # no pyplot: it would keep a global state

    figure = Figure(figsize=(8, 5))
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.99, hspace=0.02)
    low, high = mels[0].min(), mels[0].max()
    for axes, mel in zip(figure.subplots(len(mels), 1), mels, strict=True):
        axes.imshow(mel, origin="lower", aspect="auto", vmin=low, vmax=high, cmap="magma")
        axes.set_axis_off()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=80)
