"""HuBERT weights from every source in a common form: Hugging Face folders, and the cache of converted files."""

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from lib.content import HOP_LENGTH, WINDOW_LENGTH
from lib.errors import CheckpointError, WriteError
from lib.files import replacing
from lib.json_reader import parse_json
from lib.machine import machine_errors
from lib.models.hubert import HubertShape
from lib.paths import SAFETENSORS
from lib.voice.safe_load import checked_state_dict, read_safetensors, safe_load
from lib.voice.weights import Weights, check_finite, rvc_key

logger = logging.getLogger(__name__)

MAX_CONFIG_BYTES = 1 << 20
MAX_LAYERS = 64
BASE_STRIDES = (5, 2, 2, 2, 2, 2, 2)
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # the first that exists is read
# Only pre-training needs these; everything else in a file must have its place in the network.
_UNUSED = re.compile(r"masked_spec_embed|label_embs_concat|lm_head\.|(?!final_proj)project(_hid|_q|or)\.|classifier\.")


@dataclass(frozen=True)
class HubertWeights:
    """The tensors of a HuBERT network under their Hugging Face names, and its architecture."""

    shape: HubertShape
    tensors: Weights


def assemble(
    tensors: Weights, where: Path, *, heads: Any, strides: Any = BASE_STRIDES, pre_norm: bool = False
) -> HubertWeights:
    """Combine tensors with the three settings that cannot be derived from them: heads, strides and pre-norm.

    Raises CheckpointError if they do not form a HuBERT network.
    """
    kept = {_plain_name(key): value for key, value in tensors.items() if not _UNUSED.match(key.removeprefix("hubert."))}
    try:
        shape = _shape(kept, int(heads), tuple(int(stride) for stride in strides), pre_norm)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            "{path} is not a HuBERT content encoder: a required tensor or setting is missing or wrong "
            "({reason}). Use ContentVec (hubert_base).",
            path=where,
            reason=str(error),
        ) from error
    check_finite(kept, str(where))
    return HubertWeights(shape, kept)


def _plain_name(key: str) -> str:
    """The name of a tensor in our network, from older and newer spellings and from networks nested in others."""
    return rvc_key(key.removeprefix("hubert."))


def _shape(tensors: Weights, heads: int, strides: tuple[int, ...], pre_norm: bool) -> HubertShape:
    """Derive the architecture from the tensors and the other settings.

    Raises KeyError, IndexError or ValueError if they do not match the network.
    """
    convs = [tensors[f"feature_extractor.conv_layers.{i}.conv.weight"].shape for i in range(len(strides))]
    kernels = tuple(conv[2] for conv in convs)
    hop, window = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        window += (kernel - 1) * hop
        hop *= stride
    if (hop, window) != (HOP_LENGTH, WINDOW_LENGTH):
        raise ValueError(f"frames of {window} samples every {hop}, not {WINDOW_LENGTH} every {HOP_LENGTH}")
    width = tensors["encoder.layer_norm.weight"].shape[0]
    layers = 1 + max(int(key.split(".")[2]) for key in tensors if key.startswith("encoder.layers."))
    positions = tensors["encoder.pos_conv_embed.conv.weight_v"].shape
    sizes = (heads, width, positions[1], *(conv[0] for conv in convs))
    if min(sizes) < 1 or width % heads or width % positions[1] or layers > MAX_LAYERS:
        raise ValueError(f"{layers} layers of {width} channels with {heads} heads, {sizes[3:]} before them")
    projection = tensors.get("final_proj.weight")
    return HubertShape(
        width=width,
        heads=heads,
        feed_forward=tensors["encoder.layers.0.feed_forward.intermediate_dense.weight"].shape[0],
        layers=layers,
        conv_channels=tuple(conv[0] for conv in convs),
        conv_kernels=kernels,
        conv_strides=strides,
        conv_bias="feature_extractor.conv_layers.0.conv.bias" in tensors,
        norm_every_conv="feature_extractor.conv_layers.1.layer_norm.weight" in tensors,
        pre_norm=pre_norm,
        position_kernel=positions[2],
        position_groups=width // positions[1],
        projection=None if projection is None else projection.shape[0],
    )


def read_directory(folder: Path) -> HubertWeights:
    """Read a Hugging Face folder: config.json and the weights.

    Raises MissingFileError if a file does not exist, CheckpointError if the folder is not a HuBERT network, and
    MachineError if the disk cannot be read.
    """
    config = read_config(folder / "config.json")
    expected = {"model_type": "hubert", "hidden_act": "gelu", "feat_extract_activation": "gelu", "layer_norm_eps": 1e-5}
    expected |= {"conv_pos_batch_norm": False, "feat_proj_layer_norm": True}
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise CheckpointError(
                "{path} has {key} = {value!r}; only {supported!r} is supported. Use another content encoder.",
                path=folder / "config.json",
                key=key,
                value=config[key],
                supported=value,
            )
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), folder / WEIGHT_FILES[0])
    tensors = read_safetensors(path)[0] if path.suffix == SAFETENSORS else checked_state_dict(safe_load(path), path)
    heads = config.get("num_attention_heads", 12)
    strides = config.get("conv_stride", BASE_STRIDES)
    return assemble(tensors, path, heads=heads, strides=strides, pre_norm=config.get("do_stable_layer_norm") is True)


def read_config(path: Path) -> dict[str, Any]:
    """Return the settings in a folder's config.json. Raises CheckpointError if they cannot be read."""
    try:
        with machine_errors(reading=path), path.open("rb") as file:
            config = parse_json(file.read(MAX_CONFIG_BYTES))
    except ValueError as error:
        raise CheckpointError(
            "{path} is damaged or not a configuration ({reason}). Get a new copy.", path=path, reason=str(error)
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError("{path} is not a JSON object with settings. Get a new copy.", path=path)
    return config


def read_cached(path: Path) -> HubertWeights | None:
    """Return the weights that `write_cached` saved; None if the file is missing or damaged."""
    if not path.is_file():
        return None
    try:
        tensors, about = read_safetensors(path)
        facts = parse_json(about["hubert"])
        return assemble(tensors, path, heads=facts["heads"], strides=facts["strides"], pre_norm=facts["pre_norm"])
    except (CheckpointError, KeyError, ValueError, TypeError) as error:
        logger.warning("%s is damaged and is converted again (%s)", path, error)
        return None


def write_cached(path: Path, weights: HubertWeights) -> None:
    """Cache converted weights. If the folder cannot be written, they are converted on each load."""
    shape = weights.shape
    facts = {"heads": shape.heads, "strides": shape.conv_strides, "pre_norm": shape.pre_norm}
    try:
        with replacing(path) as temporary:
            contiguous = {name: tensor.contiguous() for name, tensor in weights.tensors.items()}
            save_file(contiguous, temporary, metadata={"format": "pt", "hubert": json.dumps(facts)})
    except WriteError as error:
        logger.warning("%s was not written (%s); the content encoder is converted each time it is loaded", path, error)
