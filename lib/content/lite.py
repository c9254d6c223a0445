"""The content encoder that is bundled with the project: weights in pretrained/lite/encoder.safetensors."""

from functools import cached_property
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lib.content import content_frames
from lib.errors import AudioError, CheckpointError, MissingFileError
from lib.files import sha256_of
from lib.machine import machine_errors
from lib.models.lite_encoder import WIDTH, LiteEncoder
from lib.paths import PRETRAINED
from lib.typing import FloatArray

WEIGHTS_FILE = PRETRAINED / "lite" / "encoder.safetensors"
CODE_OF = "code_of"  # metadata: the SHA-256 of the weights file whose code this encoder returns
SCALE = ".scale"  # suffix of the factors of a matrix in int8, one for each row


class LiteContentEncoder:
    """A ContentEncoder that runs a LiteEncoder network."""

    width = WIDTH
    name = "lite"

    def __init__(self, network: LiteEncoder, path: Path) -> None:
        self.network = network.eval()
        self._path = path

    @cached_property
    def sha256(self) -> str:
        """SHA-256, in hexadecimal, of the weights file that defined the content code.

        If an encoder was trained to reproduce the code of an earlier one, its metadata contains the SHA-256 of the
        earlier file, so that voices trained with either work with both.
        """
        return code_sha256(self._path)

    @torch.inference_mode()
    def __call__(self, audio: FloatArray) -> FloatArray:
        """(T,) float32 at 16 kHz -> ((T - 80) // 320, WIDTH) float32; 0 frames if T < 400."""
        if audio.ndim != 1:
            raise AudioError(
                "The content encoder requires mono audio of shape (T,), not {shape}. Mix it to mono.", shape=audio.shape
            )
        if content_frames(len(audio)) == 0:
            return np.zeros((0, WIDTH), dtype=np.float32)
        samples = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32)).to(self.network.filters.device)
        content: FloatArray = self.network(samples[None])[0].cpu().numpy()
        return content


def code_sha256(path: Path) -> str:
    """Return the SHA-256 recorded in the metadata of an encoder's weights file, otherwise that of the file itself."""
    with safetensors.safe_open(path, "pt") as file:
        named = (file.metadata() or {}).get(CODE_OF)
    return named or sha256_of(path)


def quantized(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Quantise matrices to int8 with one float16 scale per row; cast all other tensors to float16."""
    stored = {}
    for name, value in weights.items():
        if value.dim() > 1:
            rows = value.float().flatten(1)
            scale = (rows.abs().amax(1) / 127).clamp(min=1e-8).half()
            stored[name] = (rows / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8).view(value.shape)
            stored[name + SCALE] = scale
        else:
            stored[name] = value.half()
    return stored


def dequantized(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the float32 weights of tensors from `quantized`."""
    return {
        name: value.float() * stored[name + SCALE].float().view(-1, *[1] * (value.dim() - 1))
        if value.dtype == torch.int8
        else value.float()
        for name, value in stored.items()
        if not name.endswith(SCALE)
    }


def locate(family: str, name: str | None = None, path: Path = WEIGHTS_FILE) -> Path:
    """Return the file of the bundled encoder. Raises MissingFileError if it does not exist."""
    if not path.is_file():
        raise MissingFileError(path, "It is part of the project: restore it, or rebuild it with its recipe.")
    return path


def load(family: str, device: torch.device, path: Path = WEIGHTS_FILE) -> LiteContentEncoder:
    """Load the bundled encoder onto `device`.

    Raises MissingFileError if the file does not exist, and CheckpointError if it is damaged or not the bundled one.
    """
    locate(family, path=path)
    network = LiteEncoder()
    try:
        with machine_errors(reading=path):
            network.load_state_dict(dequantized(safetensors.torch.load_file(path)))
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            "{path} is not a lite content encoder or is damaged. Restore the file.", path=path
        ) from error
    return LiteContentEncoder(network.to(device), path)
