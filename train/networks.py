"""Builds the networks of a model family, randomly initialised, and its training objective."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lib.config import FamilyConfig, LiteConfig, LiteDiscriminatorConfig
from lib.models.discriminators import Discriminator
from lib.models.frames import FrameBlock
from lib.models.generator import ResidualBlock1, ResidualBlock2
from lib.models.lite_discriminator import LiteDiscriminator
from lib.voice.infer_config import Network, build_network
from train.lite_objective import LiteObjective
from train.objective import Objective, VitsObjective


class Networks(NamedTuple):
    """The networks that training updates."""

    generator: Network
    discriminator: Discriminator | LiteDiscriminator


def build_networks(config: FamilyConfig) -> Networks:
    """Build generator and discriminator of a family, initialised for training."""
    generator, sizes = build_network(config.synthesizer, posterior=True), config.discriminator
    if isinstance(sizes, LiteDiscriminatorConfig):
        return Networks(generator, LiteDiscriminator(sizes))
    return Networks(generator, Discriminator(sizes))


def make_objective(config: FamilyConfig) -> Objective:
    """Return the objective of a family."""
    return LiteObjective(config) if isinstance(config.synthesizer, LiteConfig) else VitsObjective(config)


def checkpoint_gradients(network: nn.Module) -> None:
    """Recompute the activations of all residual blocks in the backward pass instead of storing them.

    This is gradient checkpointing (Chen et al. 2016): about a third more time and much less memory, with the same
    gradients.
    """
    for block in network.modules():
        if isinstance(block, ResidualBlock1 | ResidualBlock2 | FrameBlock):
            vars(block)["forward"] = _recomputing(block.forward)


def _recomputing(forward: Callable[..., Any]) -> Callable[..., Any]:
    def recomputing(*inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs)
        return checkpoint(forward, *inputs, use_reentrant=False)

    return recomputing
