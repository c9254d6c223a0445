"""Trains one vocoder for all speakers: it synthesises waveforms from mel spectrograms and F0.

The mel spectrograms are computed from recordings or predicted by the prior. For recordings without high frequencies,
the output is low-pass filtered at their cutoff before the losses are computed.
"""

import json
import logging
import random
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lib.config import FamilyConfig, LiteConfig, LiteDiscriminatorConfig, load_family
from lib.devices import has_fast_bfloat16
from lib.files import replacing
from lib.models.lite_discriminator import LiteDiscriminator
from lib.models.lite_synthesizer import SpectralVocoder
from lib.progress import Progress, no_progress
from recipes.pretrain_lite.acoustic import MISSING_MEL
from recipes.pretrain_lite.features import FOLDER, MAX_SECONDS, Features, read_features
from recipes.pretrain_lite.options import VocoderOptions
from recipes.pretrain_lite.predict import Predictor
from recipes.pretrain_lite.recordings import read_audio, training_recordings
from train import lite_losses

logger = logging.getLogger(__name__)

CROP = 96  # frames of 10 ms
BATCH = 12
LJ_SHARE = 0.12  # share of crops of LJ Speech, the only recordings with content up to 11 kHz
REGRESSION_STEPS = 400  # without discriminators
SPECTRAL, ADVERSARIAL, MATCHING = 3.0, 0.3, 1.0  # weights of the losses
SAVE_SECONDS = 120.0
LOWEST_RATE = 0.1  # learning rate at the end of a run, relative to its beginning


class Clip(NamedTuple):
    """Audio, F0 and mel spectrogram of a clip."""

    features: Features
    predicted: npt.NDArray[np.float16] | None  # mel (F, M) by the prior
    audio: npt.NDArray[np.int16]


class Crops(NamedTuple):
    """A batch of crops."""

    mel: Tensor  # [B, F, M]
    f0: Tensor  # [B, F]
    audio: Tensor  # [B, F * hop]
    cutoffs: Tensor  # [B] Hz


class VocoderTraining:
    """Networks, optimisers and clips of the training run."""

    def __init__(self, options: VocoderOptions, folder: Path, family: FamilyConfig | None = None) -> None:
        """`family` gives the sizes of the networks; it defaults to configs/lite."""
        torch.manual_seed(options.seed)
        family = family or load_family("lite")
        assert isinstance(family.synthesizer, LiteConfig)
        assert isinstance(family.discriminator, LiteDiscriminatorConfig)
        self.config, self.options = family.synthesizer, options
        self.vocoder = SpectralVocoder(self.config)
        self.discriminator = LiteDiscriminator(family.discriminator)
        self.optimizers = [
            torch.optim.AdamW(network.parameters(), rate, betas=(0.8, 0.99))
            for network, rate in (
                (self.vocoder, options.learning_rate),
                (self.discriminator, options.learning_rate / 2),
            )
        ]
        self.rng = random.Random(options.seed)
        self.fast = has_fast_bfloat16(torch.device("cpu"))
        self.step = 0
        self.clips = self._clips(folder)

    def _clips(self, folder: Path) -> dict[str, list[Clip]]:
        predictor = Predictor(folder, self.config) if self.options.predicted else None
        clips: dict[str, list[Clip]] = {}
        for recording in training_recordings(self.options.data, folder / "speech"):
            path = folder / "features" / f"{recording.name}.npz"
            if path.is_file():
                audio = read_audio(recording.path, self.config.sample_rate)[: MAX_SECONDS * self.config.sample_rate]
                features = read_features(path)
                predicted = None if predictor is None else predictor(recording.speaker, features).astype(np.float16)
                own = features._replace(layers=[])
                clips.setdefault(recording.speaker, []).append(Clip(own, predicted, (audio * 32767).astype(np.int16)))
        return clips

    def draw(self) -> Crops:
        """Draw a batch of crops from random speakers."""
        hop, speakers = self.config.hop_length, sorted(self.clips)
        crops = Crops(
            torch.full((BATCH, CROP, self.config.n_mels), MISSING_MEL), torch.zeros(BATCH, CROP),
            torch.zeros(BATCH, CROP * hop), torch.zeros(BATCH),
        )  # fmt: skip
        for row in range(BATCH):
            speaker = "lj" if self.rng.random() < LJ_SHARE else self.rng.choice(speakers)
            clip = self.rng.choice(self.clips[speaker])
            chosen = clip.predicted is not None and self.rng.random() < self.options.predicted
            mel = clip.predicted if chosen and clip.predicted is not None else clip.features.mel
            total = min(len(mel), len(clip.features.f0), len(clip.audio) // hop)
            begin = self.rng.randint(0, max(0, total - CROP))
            count = min(CROP, total - begin)
            crops.mel[row, :count] = torch.from_numpy(mel[begin : begin + count]).float()
            crops.f0[row, :count] = torch.from_numpy(clip.features.f0[begin : begin + count])
            samples = clip.audio[begin * hop : (begin + count) * hop]
            crops.audio[row, : count * hop] = torch.from_numpy(samples).float() / 32767
            crops.cutoffs[row] = clip.features.cutoff
        return crops

    def train_step(self, rate: float) -> dict[str, float]:
        """Run one training step of both networks and return the losses."""
        self.optimizers[0].param_groups[0]["lr"] = rate
        crops, adversarial = self.draw(), self.step >= REGRESSION_STEPS
        real = crops.audio[:, None]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.fast):
            audio = self.vocoder(crops.mel, crops.f0, torch.randn_like(crops.audio))[:, 0]
        generated = lite_losses.band_limited(audio.float(), crops.cutoffs, self.config.sample_rate)[:, None]
        losses = {
            "spectral": lite_losses.spectral_loss(generated[:, 0], crops.audio, crops.cutoffs, self.config.sample_rate)
        }
        total = SPECTRAL * losses["spectral"]
        if adversarial:
            losses["discriminator"] = self._train_discriminator(real, generated.detach())
            self.discriminator.requires_grad_(False)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.fast):
                outputs = self.discriminator(generated)
                with torch.no_grad():
                    wanted = self.discriminator(real)
            losses["generator"] = lite_losses.generator_hinge(outputs)
            losses["matching"] = lite_losses.feature_distance(wanted, outputs)
            total = total + ADVERSARIAL * losses["generator"] + MATCHING * losses["matching"]
        self.optimizers[0].zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self.discriminator.requires_grad_(True)
        torch.nn.utils.clip_grad_norm_(self.vocoder.parameters(), 5.0)
        self.optimizers[0].step()
        self.step += 1
        return {name: loss.item() for name, loss in losses.items()}

    def _train_discriminator(self, real: Tensor, generated: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.fast):
            loss = lite_losses.discriminator_hinge(self.discriminator(real), self.discriminator(generated))
        self.optimizers[1].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizers[1].step()
        return loss.detach()

    def save(self, path: Path) -> None:
        """Write networks, optimisers and step."""
        state = {
            "vocoder": self.vocoder.state_dict(), "discriminator": self.discriminator.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers], "step": self.step,
        }  # fmt: skip
        with replacing(path) as temporary:
            torch.save(state, temporary)

    def resume(self, path: Path) -> None:
        """Restore the state that `save` wrote, if there is one."""
        if path.is_file():
            state = torch.load(path, weights_only=True)
            self.vocoder.load_state_dict(state["vocoder"])
            self.discriminator.load_state_dict(state["discriminator"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step = state["step"]
            self.rng.seed(self.options.seed + self.step)
            torch.manual_seed(self.options.seed + self.step)
            logger.info("continuing at step %d", self.step)


def train_vocoder(options: VocoderOptions, folder: Path = FOLDER, progress: Progress = no_progress) -> Path:
    """Train for `max_minutes` on folder/features and write folder/vocoder.pt; another call resumes."""
    torch.set_num_threads(options.threads)
    training, target = VocoderTraining(options, folder), folder / "vocoder.pt"
    training.resume(target)
    begin = saved = time.monotonic()
    limit, recent = 60 * options.max_minutes, dict[str, float]()
    with (folder / "vocoder.jsonl").open("a", encoding="utf-8") as log:
        while (spent := time.monotonic() - begin) < limit:
            rate = options.learning_rate * max(LOWEST_RATE, 1 - spent / limit)
            losses = training.train_step(rate * min(1.0, training.step / 100))
            recent = {name: 0.97 * recent.get(name, value) + 0.03 * value for name, value in losses.items()}
            if training.step % 50 == 0:
                log.write(json.dumps({"step": training.step, "seconds": round(spent, 1), **recent}) + "\n")
                log.flush()
            if time.monotonic() - saved > SAVE_SECONDS:
                training.save(target)
                saved = time.monotonic()
            progress(int(spent), int(limit), "vocoder")
    training.save(target)
    return target
