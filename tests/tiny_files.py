"""Networks with the real structure of a family and tiny widths, and files made of them, for tests of file formats."""

import functools
from pathlib import Path
from typing import Any

import torch

from lib.config import (
    DiscriminatorConfig,
    Family,
    FamilyConfig,
    LiteConfig,
    LiteDiscriminatorConfig,
    NetworkConfig,
    load_family,
)
from lib.voice.infer_config import Network, build_network
from lib.voice.model_file import VoiceModel, extract_voice_model, write_voice_model
from lib.voice.training_state import TrainingState, write_training_state
from lib.voice.weights import rvc_state_dict

SMALL = {"inter_channels": 4, "hidden_channels": 6, "filter_channels": 8, "gin_channels": 5, "n_speakers": 3}
SMALL_LITE = {
    "n_mels": 20, "prior_channels": 6, "prior_blocks": 2, "vocoder_channels": 6, "vocoder_blocks": 2, "gin_channels": 5,
    "n_speakers": 3,
}  # fmt: skip


def tiny_family(family: Family, rate: str, *, has_f0: bool = True, **changes: Any) -> FamilyConfig:
    """A shipped family with narrow layers; layers, kernels, rates and dilations of v1 and v2 are the real ones."""
    config = load_family(family, rate, has_f0=has_f0)
    if isinstance(config.synthesizer, LiteConfig):
        lite = config.synthesizer.model_copy(update=SMALL_LITE | changes)
        audio = config.audio.model_copy(update={"n_mels": lite.n_mels})
        narrow = LiteDiscriminatorConfig(resolutions=(256, 512), channels=8)
        return config.model_copy(update={"synthesizer": lite, "audio": audio, "discriminator": narrow})
    network = config.synthesizer.model_copy(update=SMALL | {"upsample_initial_channel": 32, "n_layers": 1} | changes)
    judge = config.discriminator.model_copy(update={"scale_channels": (4,) * 6, "period_channels": (4,) * 5})
    return config.model_copy(
        update={"synthesizer": network, "discriminator": DiscriminatorConfig.model_validate(judge.model_dump())}
    )


def tiny_network(config: NetworkConfig, *, posterior: bool = False, seed: int = 0) -> Network:
    """Random weights."""
    torch.manual_seed(seed)
    return build_network(config, posterior=posterior)


@functools.cache
def small_voice(family: Family = "v2", rate: str = "40k", *, seed: int = 0, **changes: Any) -> VoiceModel:
    """A voice of a family with narrow layers; the same object for the same arguments, so do not change it."""
    network = tiny_network(tiny_family(family, rate, **changes).synthesizer, seed=seed)
    return extract_voice_model(network, family, "7epoch")


def save_voice(path: Path, voice: VoiceModel) -> dict[str, Any]:
    """Write a voice as .pth and return what is in the file, for tests that change it."""
    write_voice_model(path, voice)
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def save_checkpoint(path: Path, config: NetworkConfig, epoch: int = 3) -> Network:
    """Write a generator's training checkpoint without optimiser state; returns the network."""
    network = tiny_network(config, posterior=True)
    write_training_state(path, TrainingState(rvc_state_dict(network), epoch, {}, 1e-4))
    return network
