"""Trains the bottleneck of an exported encoder to remove noise.

A copy of the bottleneck (the student) is trained to compute, from Whisper's hidden states of a noisy or augmented
version of a clip, the code that the exported bottleneck (the teacher) computes for the clean clip. The meaning of the
code does not change, so base models and voices remain valid, and the new file records the SHA-256 of the file that
defined the code.
"""

import copy
import zlib
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lib.audio import ANALYSIS_RATE
from lib.audio.decode import load_audio
from lib.content import content_frames
from lib.content.lite import code_sha256, dequantized
from lib.files import replacing
from lib.models.lite_encoder import (
    Bottleneck,
    WhisperEncoder,
    mel_filter_bank,
    normalised_over_time,
    power_spectrum,
    shifted,
    whisper_log_mel,
)
from lib.progress import Progress, no_progress
from lib.typing import FloatArray
from recipes.pretrain_lite.export import write_encoder
from recipes.pretrain_lite.features import FOLDER, MAX_SECONDS
from recipes.pretrain_lite.options import NoiseOptions
from recipes.pretrain_lite.recordings import Recording, read_audio, recorded_noises, training_recordings
from recipes.pretrain_lite.scheduled import ScheduledTraining

MAX_SNR = 22.0  # dB; the SNR is uniform between 0 and this
WHITE, COLOURED = 0.3, 0.35  # shares of the clips; all others get recorded noise
KNOTS = 6  # of the random spectrum of coloured noise
CROP = 150  # content frames, 3 s
BATCH = 6  # clips, each in three versions: clean, noisy, augmented
AUGMENTED_WEIGHT = 0.5  # of the loss of augmented versions
VALUE_DROPOUT = 0.05  # of Whisper's hidden states

Network = TypeVar("Network", bound=nn.Module)
HiddenStates = npt.NDArray[np.float16]  # (N, 2048), normalised over time


class Versions(NamedTuple):
    """Hidden states of the versions of one clip."""

    clean: HiddenStates
    noisy: HiddenStates
    augmented: list[HiddenStates]


def coloured_noise(count: int, rng: np.random.Generator) -> FloatArray:
    """Generate (count,) noise with a random smooth spectrum that falls towards high frequencies.

    In half of all cases its level varies over time.
    """
    spectrum = np.fft.rfft(rng.standard_normal(count))
    share = np.linspace(0, 1, len(spectrum))  # of half the sample rate
    gain = np.exp(np.interp(share, np.linspace(0, 1, KNOTS) ** 2, rng.normal(0, 1.0, KNOTS)))
    gain *= (share + 0.005) ** -rng.uniform(0, 1)
    noise = np.fft.irfft(spectrum * gain, count)
    if rng.random() < 0.5:
        points = count // 8000 + 2
        noise *= np.exp(np.interp(np.arange(count), np.linspace(0, count, points), rng.normal(0, 0.5, points)))
    return noise.astype(np.float32)


def draw_noise(count: int, recorded: list[Path], rng: np.random.Generator) -> FloatArray:
    """Draw `count` samples of white, coloured or recorded noise at 16 kHz; its level is arbitrary."""
    kind = rng.random()
    if kind < WHITE:
        return rng.standard_normal(count).astype(np.float32)
    if kind < WHITE + COLOURED:
        return coloured_noise(count, rng)
    noise = load_audio(recorded[rng.integers(len(recorded))], ANALYSIS_RATE)
    return np.resize(np.roll(noise, rng.integers(len(noise))), count)


def with_noise(audio: FloatArray, noise: FloatArray, snr_db: float) -> FloatArray:
    """Add noise (T,) to audio (T,), scaled to a mean power `snr_db` below that of the audio."""
    power, noise_power = (np.mean(np.square(x, dtype=np.float64)) for x in (audio, noise))
    scale = np.sqrt(power / 10 ** (snr_db / 10) / (noise_power + 1e-12))
    noisy: FloatArray = (audio + scale * noise).astype(np.float32)
    return noisy


@torch.inference_mode()
def noisy_states(recording: Recording, whisper: WhisperEncoder, recorded: list[Path]) -> HiddenStates:
    """Compute Whisper's hidden states of a recording with added noise, normalised over time.

    The name of the recording is the seed of the noise.
    """
    rng = np.random.default_rng(zlib.crc32(recording.name.encode()))
    audio = read_audio(recording.path, ANALYSIS_RATE)[: ANALYSIS_RATE * MAX_SECONDS]
    noisy = with_noise(audio, draw_noise(len(audio), recorded, rng), rng.uniform(0, MAX_SNR))
    power = power_spectrum(shifted(torch.from_numpy(noisy)[None])) @ mel_filter_bank()
    states = whisper(whisper_log_mel(power))[:, : content_frames(len(audio))]
    found: HiddenStates = normalised_over_time(states)[0].half().numpy()
    return found


def make_noisy_features(
    options: NoiseOptions, whisper: WhisperEncoder, folder: Path = FOLDER, progress: Progress = no_progress
) -> Path:
    """Write folder/noisy/SPEAKER__CLIP.npy for each clip of folder/features that has none yet."""
    recordings, recorded = training_recordings(options.data, folder / "speech"), recorded_noises(options.data)
    recordings = [r for r in recordings if (folder / "features" / f"{r.name}.npz").is_file()]
    for done, recording in enumerate(recordings):
        progress(done, len(recordings), "noisy features")
        target = folder / "noisy" / f"{recording.name}.npy"
        if not target.exists():
            states = noisy_states(recording, whisper, recorded)
            with replacing(target) as temporary, temporary.open("wb") as file:
                np.save(file, states)
    return folder / "noisy"


class NoiseTraining(ScheduledTraining):
    """Training of the student, whose weights are `networks`."""

    def __init__(self, options: NoiseOptions, folder: Path, teacher: Bottleneck) -> None:
        torch.manual_seed(options.seed)
        self.clips = []
        for path in sorted((folder / "noisy").glob("*.npy")):
            with np.load(folder / "features" / f"{path.stem}.npz") as arrays:
                clean, *augmented = arrays["layers"]
            self.clips.append(Versions(clean, np.load(path), augmented))
        self.teacher = teacher.eval().requires_grad_(False)
        self.student = copy.deepcopy(teacher).train().requires_grad_(True)
        optimizer = torch.optim.AdamW(
            self.student.parameters(), options.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        super().__init__(self.student, optimizer, options.learning_rate, options.steps, warm_up=0.05, seed=options.seed)

    def _crops(self) -> Tensor:
        """(3, BATCH, CROP, C) hidden states of clean, noisy and augmented versions; 0 after the end of a clip."""
        crops = torch.zeros(3, BATCH, CROP, self.clips[0].clean.shape[1])
        for row in range(BATCH):
            clip = self.rng.choice(self.clips)
            begin = self.rng.randint(0, max(0, len(clip.clean) - CROP))
            augmented = self.rng.choice(clip.augmented) if clip.augmented else clip.noisy
            for version, states in enumerate((clip.clean, clip.noisy, augmented)):
                part = torch.from_numpy(states[begin : begin + CROP])
                crops[version, row, : len(part)] = part
        return crops

    def train_step(self) -> dict[str, float]:
        """Run one training step and return the mean squared error of the code, keyed by version."""
        crops = self._crops()
        kept = torch.rand(3, BATCH, 1, crops.shape[3], generator=self.noise) > VALUE_DROPOUT
        with torch.no_grad():
            wanted = self.teacher(crops[0])
        found = self.student((crops * kept).flatten(0, 1)).view(3, BATCH, CROP, -1)
        losses = (found - wanted).square().mean(dim=(1, 2, 3))
        self._update((losses * torch.tensor([1.0, 1.0, AUGMENTED_WEIGHT])).sum())
        return dict(zip(("clean", "noisy", "augmented"), losses.tolist(), strict=True))


def train_noise(options: NoiseOptions, folder: Path = FOLDER, progress: Progress = no_progress) -> Path:
    """Train the bottleneck of `options.encoder` and rewrite that file; another call resumes.

    The original encoder is kept in folder/teacher.safetensors, because training needs it to resume.
    """
    torch.set_num_threads(options.threads)
    kept = folder / "teacher.safetensors"
    if not kept.is_file():
        with replacing(kept) as temporary:
            temporary.write_bytes(options.encoder.read_bytes())
    weights = dequantized(load_file(kept))
    whisper = _part(weights, "whisper.", WhisperEncoder(len(weights["whisper.conv_1.weight"])))
    teacher = _part(weights, "bottleneck.", Bottleneck(weights["bottleneck.first.weight"].shape[1]))
    make_noisy_features(options, whisper, folder, progress)
    training = NoiseTraining(options, folder, teacher)
    training.run(folder / "noise.pt", "noise", progress)
    trained = {f"bottleneck.{name}": value for name, value in training.student.state_dict().items()}
    write_encoder(options.encoder, weights | trained, code_sha256(kept))
    return options.encoder


def _part(weights: dict[str, Tensor], prefix: str, network: Network) -> Network:
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    network.load_state_dict(own)
    return network.eval()
