"""Trains the encoder's bottleneck and the prior together, by regression on the mel spectrograms of many speakers.

The mel spectrogram of a clip is predicted from its code, speaker, F0 and level; half of the codes are computed from a
version of the clip with modified formants and pitch, and with reverberation and noise added. Two terms remove speaker
information from the code: the squared distance between the codes of a clip and its augmented version, and an
adversarial speaker classifier with gradient reversal (Ganin & Lempitsky 2015).
"""

import logging
import random
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from lib.config import LiteConfig
from lib.content.lite import WEIGHTS_FILE, dequantized
from lib.devices import has_fast_bfloat16
from lib.models.lite_encoder import CODE, Bottleneck
from lib.models.lite_synthesizer import LitePrior, scaled_f0, usable_bands
from lib.progress import Progress, no_progress
from recipes.pretrain_lite.features import FOLDER, Features, lite_config, read_features
from recipes.pretrain_lite.options import AcousticOptions
from recipes.pretrain_lite.scheduled import ScheduledTraining
from train.feature_augment import with_noise_floor

logger = logging.getLogger(__name__)

CROP = 200  # frames of 10 ms
BATCH = 8
MANY = 5  # clips; half of a batch is drawn from speakers with at least this many
VALUE_DROPOUT = 0.1  # of Whisper's outputs
RATES_FROM_BASE = (0.3, 0.7, 4.0, 1.0, 1.0)  # of bottleneck, prior, speakers, both adversaries; times the learning rate
NEW_SPEAKER_DEVIATION = 0.3  # of speaker embeddings around their mean, when training starts from a base
WARM_UP = 300  # steps until the classifier has its full weight
USABLE = 0.97  # share of the cutoff up to which mel bands enter the loss
MISSING_MEL = -11.5  # log mel outside a clip


class Crops(NamedTuple):
    """A batch of crops; F frames of 10 ms, N = F / 2."""

    layers: Tensor  # [2, B, N, 2048] of the clip and a version of it
    level: Tensor  # [B, N]
    f0: Tensor  # [B, F]
    mel: Tensor  # [B, F, M]
    weight: Tensor  # [B, F, M] 1 where mel is known
    speaker: Tensor  # [B]


class ReverseGradient(torch.autograd.Function):
    """The identity in the forward pass; negates the gradient in the backward pass (Ganin & Lempitsky 2015)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return `x` unchanged."""
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Negate the gradient."""
        return -gradient


class SpeakerClassifier(nn.Module):
    """Classifies the speaker from the code of a crop."""

    def __init__(self, speakers: int, channels: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(CODE, channels, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(channels, channels, 5, 2, padding=2),
            nn.GELU(),
        )
        self.out = nn.Linear(2 * channels, speakers)

    def forward(self, code: Tensor) -> Tensor:
        """Code (B, N, CODE) -> logits (B, speakers); the gradient with respect to the code is reversed."""
        reversed_code: Tensor = ReverseGradient.apply(code)  # type: ignore[no-untyped-call]
        x = self.layers(reversed_code.transpose(1, 2))
        scores: Tensor = self.out(torch.cat([x.mean(2), x.std(2)], 1))
        return scores


class F0Regressor(nn.Module):
    """Predicts F0, scaled as in `scaled_f0`, from the code of each frame."""

    def __init__(self, channels: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(CODE, channels), nn.GELU(), nn.Linear(channels, 1))

    def forward(self, code: Tensor, f0: Tensor) -> Tensor:
        """Code (B, N, CODE), F0 (B, N) Hz -> mean squared error over voiced frames; the code's gradient is reversed."""
        reversed_code: Tensor = ReverseGradient.apply(code)  # type: ignore[no-untyped-call]
        octaves, voiced = scaled_f0(f0).unbind(2)
        error = (self.layers(reversed_code)[..., 0].float() - octaves).square() * voiced
        mean: Tensor = error.sum() / voiced.sum().clamp(min=1.0)
        return mean


class SpeakerCorpus:
    """All features, held in memory and grouped by speaker."""

    def __init__(self, folder: Path, config: LiteConfig) -> None:
        self.config = config
        self.clips: dict[str, list[Features]] = {}
        for path in sorted((folder / "features").glob("*.npz")):
            self.clips.setdefault(path.name.split("__")[0], []).append(read_features(path))
        self.speakers = ["lj", *sorted(self.clips.keys() - {"lj"})]
        self._many = [speaker for speaker in self.speakers if len(self.clips[speaker]) >= MANY]
        self._few = [speaker for speaker in self.speakers if len(self.clips[speaker]) < MANY] or self._many
        self._bands = {
            c.cutoff: usable_bands(config, USABLE * c.cutoff) for clips in self.clips.values() for c in clips
        }

    def draw(self, rng: random.Random, noise: torch.Generator) -> Crops:
        """Draw a batch of crops, half of them from speakers with at least MANY clips."""
        speakers = rng.choices(self._many, k=BATCH // 2) + rng.choices(self._few, k=BATCH - BATCH // 2)
        half, bands = CROP // 2, self.config.n_mels
        crops = Crops(
            torch.zeros(2, BATCH, half, self.clips["lj"][0].layers[0].shape[1]), torch.full((BATCH, half), -3.8),
            torch.zeros(BATCH, CROP), torch.full((BATCH, CROP, bands), MISSING_MEL), torch.zeros(BATCH, CROP, bands),
            torch.tensor([self.speakers.index(speaker) for speaker in speakers]),
        )  # fmt: skip
        for row, speaker in enumerate(speakers):
            self._fill(crops, row, rng.choice(self.clips[speaker]), rng, noise)
        return crops

    def _fill(self, crops: Crops, row: int, clip: Features, rng: random.Random, noise: torch.Generator) -> None:
        total = min(len(clip.level), len(clip.mel) // 2, len(clip.f0) // 2)
        begin = rng.randint(0, max(0, total - CROP // 2))
        count = min(CROP // 2, total)
        rows, frames = slice(begin, begin + count), slice(2 * begin, 2 * (begin + count))
        for version, number in enumerate((0, rng.randrange(len(clip.layers)))):
            crops.layers[version, row, :count] = torch.from_numpy(clip.layers[number][rows]).float()
        crops.level[row, :count] = with_noise_floor(torch.from_numpy(clip.level[rows])[None], noise)[0]
        crops.f0[row, : 2 * count] = torch.from_numpy(clip.f0[frames])
        crops.mel[row, : 2 * count] = torch.from_numpy(clip.mel[frames]).float()
        crops.weight[row, : 2 * count, : self._bands[clip.cutoff]] = 1.0


class AcousticTraining(ScheduledTraining):
    """Training of bottleneck, prior and speaker embedding, with both adversaries."""

    def __init__(self, options: AcousticOptions, corpus: SpeakerCorpus) -> None:
        torch.manual_seed(options.seed)
        self.options, self.corpus = options, corpus
        config = corpus.config
        self.bottleneck = Bottleneck(corpus.clips["lj"][0].layers[0].shape[1])
        self.prior = LitePrior(config)
        self.speakers = nn.Embedding(len(corpus.speakers), config.gin_channels)
        self.classifier = SpeakerClassifier(len(corpus.speakers))
        self.f0_regressor = F0Regressor()
        networks = nn.ModuleList([self.bottleneck, self.prior, self.speakers, self.classifier, self.f0_regressor])
        rates = [options.learning_rate] * len(networks)
        if options.base is not None:
            self._load_base(options.base)
            rates = [factor * options.learning_rate for factor in RATES_FROM_BASE]
        groups = [{"params": [*network.parameters()]} for network in networks]
        optimizer = torch.optim.AdamW(groups, options.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
        super().__init__(networks, optimizer, rates, options.steps, warm_up=0.08, seed=options.seed)
        self.fast = has_fast_bfloat16(torch.device("cpu"))

    def _load_base(self, folder: Path) -> None:
        """Start from exported networks; every speaker starts as the mean speaker with a small difference."""
        encoder, generator = dequantized(load_file(folder / WEIGHTS_FILE.name)), load_file(folder / "G.safetensors")
        for network, weights, prefix in (
            (self.bottleneck, encoder, "bottleneck."), (self.prior, generator, "enc_p."),
        ):  # fmt: skip
            own = {name.removeprefix(prefix): w.float() for name, w in weights.items() if name.startswith(prefix)}
            network.load_state_dict(own)
        with torch.no_grad():
            self.speakers.weight.mul_(NEW_SPEAKER_DEVIATION).add_(generator["emb_g.weight"].float().mean(0))

    def train_step(self) -> dict[str, float]:
        """Run one training step and return the losses."""
        crops, options = self.corpus.draw(self.rng, self.noise), self.options
        kept = torch.rand(1, BATCH, 1, crops.layers.shape[3], generator=self.noise) > VALUE_DROPOUT
        with torch.autocast("cpu", torch.bfloat16, enabled=self.fast):
            code = self.bottleneck((crops.layers * kept).flatten(0, 1)).view(2, BATCH, CROP // 2, CODE)
            noisy = code + options.noise * torch.randn(code.shape, generator=self.noise)
            augmented = torch.rand(BATCH, 1, 1, generator=self.noise) < 0.5
            content = torch.cat([torch.where(augmented, noisy[1], noisy[0]), crops.level[..., None]], 2)
            made = self.prior(content.repeat_interleave(2, 1), crops.f0, self.speakers(crops.speaker))
            scores = self.classifier(code.flatten(0, 1)).float()
        share = min(1.0, self.step / WARM_UP)
        losses = {
            "mel": ((made - crops.mel).abs() * crops.weight).sum() / crops.weight.sum(),
            "invariance": options.invariance * (code[0] - code[1]).square().mean(),
            "reader": options.adversary * share * F.cross_entropy(scores, crops.speaker.repeat(2)),
            "f0": options.f0_adversary * share * self.f0_regressor(code[0], crops.f0[:, ::2]),
        }
        self._update(torch.stack([*losses.values()]).sum())
        return {name: loss.item() for name, loss in losses.items()}

    def _extra(self) -> dict[str, Any]:
        return {"readers": self.corpus.speakers}


def train_acoustic(options: AcousticOptions, folder: Path = FOLDER, progress: Progress = no_progress) -> Path:
    """Train on folder/features and write folder/acoustic.pt; another call resumes."""
    torch.set_num_threads(options.threads)
    corpus = SpeakerCorpus(folder, lite_config())
    seconds = sum(len(clip.mel) for clips in corpus.clips.values() for clip in clips) / 100
    logger.info("%d speakers, %.2f h", len(corpus.speakers), seconds / 3600)
    training, target = AcousticTraining(options, corpus), folder / "acoustic.pt"
    training.run(target, "acoustic", progress)
    return target
