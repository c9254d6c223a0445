"""HuBERT networks of a few thousand parameters, in the file formats of other programs."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lib.models.hubert import Hubert, HubertShape

TINY = HubertShape(
    width=16, heads=4, feed_forward=24, layers=12, conv_channels=(8,) * 7, conv_kernels=(10, 3, 3, 3, 3, 2, 2),
    conv_strides=(5, 2, 2, 2, 2, 2, 2), conv_bias=False, norm_every_conv=False, pre_norm=False, position_kernel=128,
    position_groups=4, projection=6,
)  # fmt: skip


def tensors_of(shape: HubertShape, seed: int = 0) -> dict[str, Tensor]:
    """Random weights of a whole network, named as Hugging Face names them."""
    torch.manual_seed(seed)
    state = Hubert(shape, shape.layers, project=True).state_dict()
    ones = ("layer_norm.weight", "weight_g")
    return {key: 0.2 * torch.randn_like(value) + float(key.endswith(ones)) for key, value in state.items()}


_FAIRSEQ = {  # parts of names, ours and fairseq's; the first that fits counts
    "feature_extractor.conv_layers.0.layer_norm.": "feature_extractor.conv_layers.0.2.",
    "feature_projection.projection.": "post_extract_proj.",
    "feature_projection.layer_norm.": "layer_norm.",
    "encoder.pos_conv_embed.conv.": "encoder.pos_conv.0.",
    ".conv.": ".0.",
    ".attention.": ".self_attn.",
    ".feed_forward.intermediate_dense.": ".fc1.",
    ".feed_forward.output_dense.": ".fc2.",
}


def fairseq_name(name: str) -> str:
    """What fairseq calls a tensor of ours."""
    if name.startswith("encoder.layers."):
        name = name.replace(".layer_norm.", ".self_attn_layer_norm.")
    ours = next((part for part in _FAIRSEQ if part in name), "")
    return name.replace(ours, _FAIRSEQ[ours]) if ours else name


def fairseq_content(tensors: dict[str, Tensor], heads: int = 4) -> dict[str, Any]:
    """What a fairseq checkpoint with these weights holds."""
    model = {fairseq_name(name): tensor for name, tensor in tensors.items()}
    return {"args": None, "model": model, "cfg": {"model": {"encoder_attention_heads": heads}}}


def write_folder(folder: Path, tensors: dict[str, Tensor], file: str = "model.safetensors", **config: Any) -> None:
    folder.mkdir(parents=True)
    facts = {"model_type": "hubert", "num_attention_heads": 4, "hidden_size": 16} | config
    (folder / "config.json").write_text(json.dumps(facts), encoding="utf-8")
    if file.endswith(".safetensors"):
        save_file(tensors, folder / file)
    else:
        torch.save(tensors, folder / file)
