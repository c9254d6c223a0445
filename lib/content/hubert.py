"""The content encoders of v1 and v2: ContentVec (`hubert_base`), or another HuBERT selected by name."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from lib.assets import how_to_get, known_name
from lib.content import CONTENTVEC, NAMED, REPOSITORIES, canonical_name, content_frames
from lib.content.fairseq_reader import read_fairseq
from lib.content.hubert_weights import HubertWeights, read_cached, read_config, read_directory, write_cached
from lib.errors import AudioError, CheckpointError, MissingFileError
from lib.files import sha256_of
from lib.installations import weight_folders
from lib.models.hubert import Hubert
from lib.models.memory import release_mapped_weights, trim_memory
from lib.paths import PRETRAINED, ROOT, check_name
from lib.typing import FloatArray
from lib.voice.weights import meta_device, unmap

logger = logging.getLogger(__name__)

DEPTH = {"v1": 9, "v2": 12}  # transformer layers, counted from 1; v1 projects the result
PROJECTED = {"v1"}


class HubertContentEncoder:
    """A ContentEncoder that runs a Hubert network."""

    def __init__(self, network: Hubert, width: int, name: str) -> None:
        self.width = width
        self.name = name
        self.network = network.eval()

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the weights in fp16, the same for every file format and precision."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(json.dumps([name, list(tensor.shape)]).encode())
            digest.update(tensor.half().cpu().contiguous().numpy().tobytes())
        release_mapped_weights(self.network)
        return digest.hexdigest()

    def cast(self, dtype: torch.dtype) -> None:
        """Cast the network in place. `sha256` does not change: features differ only by rounding error."""
        logger.info("content encoder %s (%s) computes in %s", self.name, self.sha256[:12], dtype)
        self.network.cast(dtype)
        unmap(self.network, dtype)
        trim_memory()

    @torch.inference_mode()
    def __call__(self, audio: FloatArray) -> FloatArray:
        """(T,) float32 at 16 kHz -> ((T - 80) // 320, C) float32; 0 frames if T < 400."""
        if audio.ndim != 1:
            raise AudioError(
                "The content encoder requires mono audio of shape (T,), not {shape}. Mix it to mono.", shape=audio.shape
            )
        if content_frames(len(audio)) == 0:
            return np.zeros((0, self.width), dtype=np.float32)
        device = next(self.network.parameters()).device
        samples = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32)).to(device)
        content: FloatArray = self.network(samples[None])[0].cpu().numpy()
        return content

    @torch.inference_mode()
    def batch(self, clips: Sequence[FloatArray]) -> list[FloatArray]:
        """Compute the features of several clips as one batch."""
        features: list[FloatArray] = [np.zeros((0, self.width), dtype=np.float32)] * len(clips)
        usable = [i for i, clip in enumerate(clips) if clip.ndim == 1 and content_frames(len(clip)) > 0]
        if len(usable) < 2:
            return [self(clip) for clip in clips]
        device = next(self.network.parameters()).device
        samples = [torch.from_numpy(np.ascontiguousarray(clips[i], dtype=np.float32)).to(device) for i in usable]
        for i, content in zip(usable, self.network.batch(samples), strict=True):
            features[i] = content.cpu().numpy()
        return features


def load(
    family: str, device: torch.device, name: str = CONTENTVEC, dtype: torch.dtype = torch.float32
) -> HubertContentEncoder:
    """Load the HuBERT model called `name` for models of `family` ("v1" or "v2").

    `dtype` is that of its matrix products and convolutions. Raises MissingFileError if it is not installed, and
    CheckpointError if it is damaged or incompatible.
    """
    name = canonical_name(name)
    path = find(name)
    weights = read_directory(path) if path.is_dir() else _read_file(path, name)
    logger.info("content encoder %s: %s", name, path)
    encoder = build(weights, family, device, name, path)
    release_mapped_weights(encoder.network)
    if dtype != torch.float32:
        del weights
        encoder.cast(dtype)
    return encoder


def build(weights: HubertWeights, family: str, device: torch.device, name: str, where: Path) -> HubertContentEncoder:
    """Build the network that `family` needs from weights.

    Raises CheckpointError if the weights lack layers or the projection.
    """
    shape, depth = weights.shape, DEPTH[family]
    if shape.layers < depth:
        raise _too_few_layers(where, shape.layers, family)
    if family in PROJECTED and shape.projection is None:
        raise CheckpointError(
            "{path} lacks final_proj, the projection that {family} needs. Use a complete file, or a v2 model.",
            path=where,
            family=family,
        )
    with meta_device():  # no memory is allocated for sizes that the file only declares
        network = Hubert(shape, depth, project=family in PROJECTED)
    wanted = network.state_dict()
    beyond = tuple(f"encoder.layers.{i}." for i in range(depth, shape.layers))
    known = {key: value for key, value in weights.tensors.items() if not key.startswith((*beyond, "final_proj."))}
    known |= {key: weights.tensors[key] for key in wanted if key.startswith("final_proj.") and key in weights.tensors}
    odd = sorted(wanted.keys() ^ known.keys()) or sorted(k for k in wanted if wanted[k].shape != known[k].shape)
    if odd:
        raise CheckpointError(
            "{path} is not a HuBERT content encoder: {count} tensors are missing, unexpected or have the wrong shape "
            "({key}, …). Use {encoder}.",
            path=where,
            count=len(odd),
            key=odd[0],
            encoder=CONTENTVEC,
        )
    network.load_state_dict({key: value.to(device, torch.float32) for key, value in known.items()}, assign=True)
    width = shape.projection if network.final_proj is not None and shape.projection else shape.width
    return HubertContentEncoder(network.requires_grad_(False), width, name)


def locate(family: str, name: str | None = None) -> Path:
    """Return the file or folder of the HuBERT called `name`, or of ContentVec if `name` is None; weights are not read.

    Raises MissingFileError if it does not exist, and CheckpointError if the folder's config declares fewer layers than
    `family` needs.
    """
    path = find(canonical_name(name or CONTENTVEC))
    layers = read_config(path / "config.json").get("num_hidden_layers", DEPTH[family]) if path.is_dir() else None
    if isinstance(layers, int) and layers < DEPTH[family]:
        raise _too_few_layers(path, layers, family)
    return path


def _too_few_layers(path: Path, layers: int, family: str) -> CheckpointError:
    return CheckpointError(
        "{path} has {layers} layers, but {family} needs {needed}. Use {encoder}.",
        path=path,
        layers=layers,
        family=family,
        needed=DEPTH[family],
        encoder=CONTENTVEC,
    )


def find(name: str) -> Path:
    """Find the file or folder of a content encoder, in this program's folders or those of other programs.

    Raises MissingFileError if there is none.
    """
    for path in _places(check_name(name, "content encoder")):
        if path.is_file() or (path / "config.json").is_file():
            return path
    if name == CONTENTVEC:
        raise MissingFileError(
            PRETRAINED / "hubert_base", "{remedy}", remedy=how_to_get("hubert_base", "hubert_base.pt")
        )
    if name in REPOSITORIES:
        raise MissingFileError(
            PRETRAINED / name,
            "The content encoder {name!r} is the Hugging Face repository {repository}: put its files config.json and "
            "model.safetensors or pytorch_model.bin there.",
            name=name,
            repository=REPOSITORIES[name],
        )
    raise MissingFileError(
        PRETRAINED / name,
        "The content encoder {name!r} is not installed: put its Hugging Face folder (config.json and "
        "model.safetensors or pytorch_model.bin) there, under that name.",
        name=name,
    )


def _places(name: str) -> Iterator[Path]:
    if name == CONTENTVEC:
        yield PRETRAINED / "hubert_base.pt"
        yield PRETRAINED / "hubert_base"
        yield ROOT / "hubert_base.pt"
        yield ROOT / "assets" / "hubert" / "hubert_base.pt"
        yield ROOT / "assets" / "hubert_base"
        yield PRETRAINED / "checkpoint_best_legacy_500.pt"  # the name its authors gave it
    spellings = (name, name.replace("-", "_")) if name in NAMED else (name,)
    for spelling in spellings:
        yield from (PRETRAINED / spelling, PRETRAINED / f"{spelling}.pt", ROOT / "assets" / spelling)
    for folder in weight_folders():
        if name == CONTENTVEC:
            yield from (folder / "hubert_base.pt", folder / "hubert_base", folder / "contentvec")
        for spelling in spellings:
            yield from (folder / spelling, folder / f"{spelling}.pt")


def _read_file(path: Path, name: str) -> HubertWeights:
    """Read a fairseq file, or the cached conversion of the same file."""
    digest = sha256_of(path)
    if name == CONTENTVEC and known_name(digest) is None:
        logger.warning(
            "%s is not the hubert_base.pt that published voices were trained on (SHA-256 %s); if they sound wrong, "
            "get that one: python -m lib.assets download hubert_base", path, digest[:12],
        )  # fmt: skip
    cache = PRETRAINED / "cache" / f"{digest}.safetensors"
    weights = read_cached(cache)
    if weights is None:
        weights = read_fairseq(path)
        write_cached(cache, weights)
    return weights
