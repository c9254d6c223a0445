"""Reads `hubert_base.pt`, a fairseq checkpoint, without fairseq and without executing code from the file.

The file is a pickle that contains, besides tensors, an object of fairseq's `Dictionary` class and, if it is old,
settings as omegaconf objects. torch's weights-only reader instantiates only the classes of an allow list; the list has
an empty stand-in class for each of these names, and all other classes are refused.
"""

import re
from pathlib import Path
from typing import Any

import torch

from lib.content.hubert_weights import BASE_STRIDES, HubertWeights, assemble
from lib.errors import CheckpointError
from lib.voice.safe_load import checked_state_dict, safe_load


class _Inert:
    """Replaces a class that is not allowed: accepts any arguments, keeps the attributes in the file, does nothing."""

    def __new__(cls, *_: object, **__: object) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        """Ignore the arguments of the replaced class."""


_FOREIGN = (
    "fairseq.data.dictionary.Dictionary",
    "argparse.Namespace",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    # What the omegaconf objects refer to: types, and tables that are not read.
    "collections.defaultdict",
    "typing.Any",
    "builtins.dict",
    "builtins.list",
    "builtins.int",
)
_TENSORS = {
    "mask_emb": "masked_spec_embed",
    "label_embs_concat": None,
    "encoder.pos_conv.0.weight_g": "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    "encoder.pos_conv.0.weight_v": "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
    "encoder.pos_conv.0.bias": "encoder.pos_conv_embed.conv.bias",
}
_MODULES = {
    "layer_norm": "feature_projection.layer_norm",
    "post_extract_proj": "feature_projection.projection",
    "encoder.layer_norm": "encoder.layer_norm",
    "final_proj": "final_proj",
}
_LAYER_PARTS = {
    "self_attn.k_proj": "attention.k_proj",
    "self_attn.v_proj": "attention.v_proj",
    "self_attn.q_proj": "attention.q_proj",
    "self_attn.out_proj": "attention.out_proj",
    "self_attn_layer_norm": "layer_norm",
    "fc1": "feed_forward.intermediate_dense",
    "fc2": "feed_forward.output_dense",
    "final_layer_norm": "final_layer_norm",
}
_CONV = re.compile(r"feature_extractor\.conv_layers\.(\d+)\.(0|2|2\.1)\.(weight|bias)")
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_CONV_TERM = re.compile(r"\[\(\d+,(\d+),(\d+)\)\](?:\*(\d+))?")
_MAX_CONVS = 16


def hugging_face_name(name: str) -> str | None:
    """Return the Hugging Face name of a fairseq HuBERT tensor; None if it has no counterpart there.

    Raises KeyError if the name is unknown.
    """
    if name in _TENSORS:
        return _TENSORS[name]
    if match := _CONV.fullmatch(name):
        # 0 is the convolution; 2 its GroupNorm; 2.1 a LayerNorm that stands between two transpositions.
        return f"feature_extractor.conv_layers.{match[1]}.{'conv' if match[2] == '0' else 'layer_norm'}.{match[3]}"
    if match := _LAYER.fullmatch(name):
        return f"encoder.layers.{match[1]}.{_LAYER_PARTS[match[2]]}.{match[3]}"
    module, _, kind = name.rpartition(".")
    if module not in _MODULES or kind not in ("weight", "bias"):
        raise KeyError(name)
    return f"{_MODULES[module]}.{kind}"


def read_fairseq(path: Path) -> HubertWeights:
    """Read a fairseq HuBERT checkpoint, zip or legacy file, fp32 or fp16.

    Raises MissingFileError if the file does not exist, and CheckpointError if it is not such a checkpoint.
    """
    with torch.serialization.safe_globals([(_Inert, name) for name in _FOREIGN]):
        content = safe_load(path)
    if not isinstance(content, dict) or "model" not in content:
        raise CheckpointError(
            "{path} is not a fairseq checkpoint: it lacks the entry 'model'. Use hubert_base.pt.", path=path
        )
    try:
        named = {name: hugging_face_name(name) for name in checked_state_dict(content["model"], path)}
    except KeyError as error:
        raise CheckpointError(
            "{path} contains the tensor {reason}, which a HuBERT encoder does not have. Use hubert_base.pt.",
            path=path,
            reason=str(error),
        ) from error
    settings = _look_up(content.get("cfg"), "model") or content.get("args")
    strides = _strides(_look_up(settings, "conv_feature_layers"), path)
    tensors = {new: content["model"][old] for old, new in named.items() if new is not None}
    return assemble(
        tensors,
        path,
        heads=_look_up(settings, "encoder_attention_heads"),
        strides=strides,
        pre_norm=_look_up(settings, "layer_norm_first") is True,
    )


def _look_up(settings: Any, key: str) -> Any:
    """One entry of settings stored as a dict, an omegaconf object or a namespace; None if it is not there."""
    if isinstance(settings, _Inert):
        settings = vars(settings).get("_content", vars(settings))
    value = settings.get(key) if isinstance(settings, dict) else None
    return vars(value).get("_val", value) if isinstance(value, _Inert) else value


def _strides(layers: Any, path: Path) -> tuple[int, ...]:
    """Strides from fairseq's notation of the convolutions: "[(512,10,5)] + [(512,3,2)] * 4 + …"."""
    if layers is None:
        return BASE_STRIDES
    if not isinstance(layers, str):
        layers = f"a {type(layers).__name__}"  # the value itself may be enormous
    terms = layers[:1000].replace(" ", "").split("+")
    strides: list[int] = []
    for term in terms:
        match = _CONV_TERM.fullmatch(term)
        if match is None or len(match[3] or "") > 2 or len(strides) > _MAX_CONVS:
            raise CheckpointError(
                "{path} describes its convolutions as {layers!r:.60}, which cannot be parsed.",
                path=path,
                layers=layers,
            )
        strides += [int(match[2])] * int(match[3] or 1)
    return tuple(strides)
