"""The "rmvpe" method: our implementation of the network with the published weights, which have to be downloaded."""

import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lib.assets import how_to_get
from lib.audio import ANALYSIS_RATE
from lib.errors import CheckpointError, MissingFileError
from lib.installations import weight_folders
from lib.machine import machine_errors
from lib.models.memory import release_mapped_weights
from lib.models.rmvpe import FRAME_MULTIPLE, N_MELS, N_PITCHES, Rmvpe
from lib.paths import PRETRAINED, ROOT, SAFETENSORS
from lib.pitch.scale import CENTS_PER_PITCH, HOP_LENGTH, LOWEST_CENTS, frame_windows
from lib.typing import FloatArray
from lib.voice.safe_load import safe_load
from lib.voice.weights import Weights, load_weights, meta_device, unmap

# Where RVC programs keep the file; the first that exists is used.
PLACES = (
    PRETRAINED / "rmvpe.safetensors",
    PRETRAINED / "rmvpe.pt",
    ROOT / "rmvpe.safetensors",
    ROOT / "rmvpe.pt",
    ROOT / "assets/rmvpe/rmvpe.safetensors",
    ROOT / "assets/rmvpe/rmvpe.pt",
)

N_FFT = 1024
MEL_LOW, MEL_HIGH = 30.0, 8000.0  # Hz
MEL_FLOOR = 1e-5
THRESHOLD = 0.03  # a frame whose strongest pitch is not above it is unvoiced
NEIGHBOURS = 4  # pitches to either side of the strongest that take part in its mean

# Longer audio is computed in overlapping windows, so that an hour needs no more memory than a minute. Both are
# multiples of FRAME_MULTIPLE, so that the network's pooling falls on the same frames in every window.
CORE_FRAMES = 4096
MARGIN_FRAMES = 512


def load(method: str, device: torch.device, dtype: torch.dtype = torch.float32) -> "RmvpePitch":
    """Return rmvpe on `device`, its convolutions in `dtype`.

    Raises MissingFileError if its weights are not installed, and CheckpointError if they cannot be used.
    """
    path = find_weights()
    table = _read_table(path)
    with meta_device():
        network = Rmvpe()
    in_fp16 = [conv for name, conv in _convolutions(network) if _is_half(table, name)]
    for conv in in_fp16:
        conv.weight = nn.Parameter(conv.weight.half())
    load_weights(network, table, str(path))
    if not all(torch.isfinite(tensor).all() for tensor in network.state_dict().values()):
        raise CheckpointError("{path} is damaged: it has numbers that are not finite. Get a new copy.", path=path)
    release_mapped_weights(network)
    network.eval().requires_grad_(False).to(device)
    if dtype == torch.float32:
        for conv in in_fp16:
            parametrize.register_parametrization(conv, "weight", _Float32OnUse(), unsafe=True)
    else:
        for _, conv in _convolutions(network):
            conv.to(dtype)
        unmap(network, dtype)
    return RmvpePitch(network, device)


class RmvpePitch:
    """Estimates F0 with the RMVPE network, for one clip or several."""

    def __init__(self, network: Rmvpe, device: torch.device) -> None:
        self.network = network
        self._device = device

    def __call__(self, audio: FloatArray) -> FloatArray:
        return self.batch([audio])[0]

    def batch(self, clips: Sequence[FloatArray]) -> list[FloatArray]:
        """Estimate the F0 of several clips; those with equal `network_frames` are processed as one batch."""
        audio = [torch.from_numpy(clip).to(self._device) for clip in clips]
        alike: dict[int, list[int]] = {}
        for i, clip in enumerate(audio):
            total = network_frames(len(clip))
            alike.setdefault(total if total <= CORE_FRAMES else -i - 1, []).append(i)  # clips in windows: one at a time
        found: dict[int, FloatArray] = {}
        for places in alike.values():
            strengths = salience_of_clips(self.network, [audio[i] for i in places])
            for i, strength in zip(places, strengths, strict=True):
                found[i] = decode(strength.cpu()).numpy()  # not every device has doubles
        return [found[i] for i in range(len(clips))]


class _Float32OnUse(nn.Module):
    """A weight that is held in fp16, as in the file, and cast to float32 when it is used.

    Nearly all of the network's 362 MB are such weights, each used once per recording.
    """

    def forward(self, weight: Tensor) -> Tensor:
        """fp16 -> float32, exactly."""
        return weight.float()


def _convolutions(network: Rmvpe) -> Iterator[tuple[str, nn.Conv2d | nn.ConvTranspose2d]]:
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            yield name, module


def _is_half(table: Weights, name: str) -> bool:
    weight = table.get(f"{name}.weight")
    return weight is not None and weight.dtype == torch.float16


def _places() -> Iterator[Path]:
    """Yield the places where the weights may be: PLACES, then the folders of other programs that are in use."""
    yield from PLACES
    for folder in weight_folders():
        yield from (folder / "rmvpe.safetensors", folder / "rmvpe.pt")


def is_installed() -> bool:
    """Whether the weights are installed."""
    return any(path.is_file() for path in _places())


def find_weights() -> Path:
    """Return the weights file. Raises MissingFileError, whose message says how to get the file, if there is none."""
    for path in _places():
        if path.is_file():
            return path
    raise MissingFileError(
        PRETRAINED / "rmvpe.pt", "{remedy}", remedy=how_to_get("rmvpe", "rmvpe.pt / rmvpe.safetensors")
    )


def _read_table(path: Path) -> Weights:
    """Read a state dict from `.safetensors` or `.pt`, executing no code from it."""
    table: Any
    if path.suffix == SAFETENSORS:
        try:
            with machine_errors(reading=path):
                table = load_file(path)
        except (SafetensorError, ValueError) as error:
            raise CheckpointError("{path} is damaged or not a safetensors file. Get a new copy.", path=path) from error
    else:
        table = safe_load(path)
    if not isinstance(table, dict) or not all(isinstance(value, Tensor) for value in table.values()):
        raise CheckpointError(
            "{path} contains no state dict, so it is not RMVPE's weights file. Get a new copy.", path=path
        )
    return table


def salience(network: Rmvpe, audio: Tensor) -> Tensor:
    """Compute the salience of each frame of 16 kHz audio: (T,) -> [T // 160, 360]."""
    return salience_of_clips(network, [audio])[0]


def network_frames(samples: int) -> int:
    """Return the number of frames of a clip at the input of the network, a multiple of FRAME_MULTIPLE."""
    return int(-(-(samples // HOP_LENGTH) // FRAME_MULTIPLE) * FRAME_MULTIPLE)


@torch.inference_mode()
def salience_of_clips(network: Rmvpe, clips: Sequence[Tensor]) -> list[Tensor]:
    """Compute the salience of each frame of clips with equal `network_frames`: (T,) -> [T // 160, 360] each.

    The start is reflection-padded as in training; the end is padded with silence to a multiple of 32 frames.
    """
    total = network_frames(clips[0].shape[0])
    rows = []
    for audio in clips:
        row = torch.nn.functional.pad(audio[None], (N_FFT // 2, 0), mode="reflect")[0]
        rows.append(torch.nn.functional.pad(row, (0, (total - 1) * HOP_LENGTH + N_FFT - row.shape[0])))
    context, parts = torch.stack(rows), []
    for window in frame_windows(total, CORE_FRAMES, MARGIN_FRAMES):
        samples = context[:, window.start * HOP_LENGTH : (window.stop - 1) * HOP_LENGTH + N_FFT]
        parts.append(network(log_mel(samples))[:, window.keep])
    strength = torch.cat(parts, dim=1)
    return [row[: len(audio) // HOP_LENGTH] for row, audio in zip(strength, clips, strict=True)]


def log_mel(audio: Tensor) -> Tensor:
    """Compute the natural logarithm of 128 mel magnitudes of (..., T) at 16 kHz: [..., 128, (T - 1024) // 160 + 1].

    Frames are not padded: the first covers the first 1024 samples.
    """
    window = torch.hann_window(N_FFT, device=audio.device)
    spectrum = torch.stft(audio.float(), N_FFT, HOP_LENGTH, N_FFT, window, center=False, return_complex=True)
    return torch.log(torch.matmul(mel_matrix(audio.device), spectrum.abs()).clamp(min=MEL_FLOOR))


@lru_cache(maxsize=4)
def mel_matrix(device: torch.device) -> Tensor:
    """Return the mel filter bank [128, 513] on the HTK scale with Slaney's area normalisation."""
    from torchaudio.functional import melscale_fbanks

    with torch.inference_mode(False), warnings.catch_warnings():
        # Some of the lowest bands are narrower than a bin of the spectrum and stay empty; as in training.
        warnings.filterwarnings("ignore", message="At least one mel filterbank")
        bins = N_FFT // 2 + 1
        bank: Tensor = melscale_fbanks(bins, MEL_LOW, MEL_HIGH, N_MELS, ANALYSIS_RATE, norm="slaney", mel_scale="htk")
        return bank.T.contiguous().to(device)


def decode(strength: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """Decode F0 from salience: [F, 360] -> (F,) Hz, 0 where no salience exceeds `threshold`.

    F0 is the mean in cents of the pitches around the strongest one, weighted by their salience.
    """
    device = strength.device
    strongest, centre = strength.max(dim=1)
    near = centre[:, None] + torch.arange(-NEIGHBOURS, NEIGHBOURS + 1, device=device)  # [F, 9]
    inside = (near >= 0) & (near < N_PITCHES)
    weights = strength.gather(1, near.clamp(0, N_PITCHES - 1)).double() * inside
    cents = (weights * (LOWEST_CENTS + CENTS_PER_PITCH * near)).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-30)
    return torch.where(strongest > threshold, 10.0 * 2.0 ** (cents / 1200.0), 0.0).float()
