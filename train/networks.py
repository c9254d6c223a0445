"""The networks of a model family with fresh weights: the one place that builds them for training."""

from typing import NamedTuple

import torch
from torch import nn

from lib.config import FamilyConfig
from lib.models.discriminators import Discriminator
from lib.models.synthesizer import Synthesizer


class Networks(NamedTuple):
    """What a training updates."""

    generator: Synthesizer
    discriminator: Discriminator


def build_networks(config: FamilyConfig) -> Networks:
    """Build generator and discriminator of a family, initialised for training."""
    generator = build_generator(config)
    return Networks(generator, Discriminator(config.discriminator))


def build_generator(config: FamilyConfig, *, posterior: bool | None = None) -> Synthesizer:
    """Build the generator of a family; `posterior` False leaves out the encoder that only training needs."""
    generator = Synthesizer(config.synthesizer, posterior=config.has_posterior if posterior is None else posterior)
    fix_source(generator, config)
    _init_prior(generator, config)
    return generator


def fix_source(generator: Synthesizer, config: FamilyConfig) -> None:
    """Set the weight of the sine source and exclude it from training, where the family fixes it."""
    source, weight = generator.dec.m_source, config.source.weight
    if source is not None and weight is not None:
        nn.init.constant_(source.l_linear.weight, weight)
        nn.init.zeros_(source.l_linear.bias)
        source.requires_grad_(False)


def _init_prior(generator: Synthesizer, config: FamilyConfig) -> None:
    """Set the prior's initial log-scale where the family has one; exclude an unused posterior from training."""
    assert generator.enc_p.proj.bias is not None
    if config.prior.log_scale is not None:
        with torch.no_grad():
            generator.enc_p.proj.bias[config.synthesizer.inter_channels :] = config.prior.log_scale
    if generator.enc_q is not None:
        generator.enc_q.requires_grad_(not config.prior.only)
