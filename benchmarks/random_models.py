"""Networks, an index and recordings for benchmarks: full-size networks with random weights, as fast as trained ones."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.bench_convert import INDEX_VECTORS, synthetic_recording
from lib.audio import ANALYSIS_RATE

FAMILY: Literal["v2"] = "v2"
RATE = "40k"
SHORT_FILES = 12  # of 5 s each


def prepare(folder: Path) -> None:
    """Write a v2 voice, its index, HuBERT base, RMVPE and recordings into the folder, unless they exist."""
    import torch

    from lib.audio.encode import save_audio
    from lib.audio.filters import resample
    from lib.config import load_family
    from lib.index import FeatureIndex
    from lib.voice.infer_config import build_network
    from lib.voice.model_file import extract_voice_model, write_voice_model

    if (folder / "ready").is_file():
        return
    torch.manual_seed(0)
    config = load_family(FAMILY, RATE).synthesizer
    write_voice_model(folder / "voice.pth", extract_voice_model(build_network(config), FAMILY, "random weights"))
    vectors = np.random.default_rng(0).standard_normal((INDEX_VECTORS, config.content_width)).astype(np.float32)
    FeatureIndex.build([vectors]).save(folder / "added.index")
    write_analysis_networks(folder)
    for seconds in (3, 60, 600):
        save_audio(folder / f"{seconds}.wav", resample(synthetic_recording(seconds), ANALYSIS_RATE, 44_100), 44_100)
    for i in range(SHORT_FILES):
        save_audio(folder / f"short/{i}.wav", resample(synthetic_recording(5, seed=i), ANALYSIS_RATE, 44_100), 44_100)
    (folder / "ready").write_text("")


def write_analysis_networks(folder: Path, *, tiny: bool = False) -> None:
    """Write HuBERT base as a Hugging Face folder, and RMVPE in fp16, as it is published.

    If `tiny`, only a narrow HuBERT is written.
    """
    import torch
    from safetensors.torch import save_file

    from lib.models.hubert import Hubert, HubertShape
    from lib.models.rmvpe import Rmvpe

    torch.manual_seed(0)
    shape = HubertShape(
        width=768, heads=12, feed_forward=3072, layers=12, conv_channels=(512,) * 7,
        conv_kernels=(10, 3, 3, 3, 3, 2, 2), conv_strides=(5, 2, 2, 2, 2, 2, 2), conv_bias=False,
        norm_every_conv=False, pre_norm=False, position_kernel=128, position_groups=16, projection=256,
    )  # fmt: skip
    if tiny:
        shape = replace(shape, feed_forward=8, conv_channels=(8,) * 7)
    hubert = Hubert(shape, shape.layers, project=True)
    for name, weight in hubert.named_parameters():
        torch.nn.init.ones_(weight) if name.endswith("weight_g") else torch.nn.init.normal_(weight, 0, 0.02)
    (folder / "hubert").mkdir(exist_ok=True)
    config = '{"model_type": "hubert", "num_attention_heads": 12, "hidden_size": 768}'
    (folder / "hubert/config.json").write_text(config, encoding="utf-8")
    table = {key: value.contiguous() for key, value in hubert.state_dict().items()}
    save_file(table, folder / "hubert/model.safetensors")
    if not tiny:
        save_file(Rmvpe().half().state_dict(), folder / "rmvpe.safetensors")


def use_random_networks(folder: Path) -> None:
    """Make this process load the random networks from `folder` instead of the published ones."""
    from lib.content import hubert
    from lib.pitch import rmvpe

    setattr(hubert, "find", lambda name: folder / "hubert")  # noqa: B010 - a function of another module
    setattr(rmvpe, "PLACES", (folder / "rmvpe.safetensors",))  # noqa: B010
