"""The networks of a model family with fresh weights: the one place that builds them for training."""

from typing import NamedTuple

from lib.config import FamilyConfig, LiteDiscriminatorConfig
from lib.models.discriminators import Discriminator
from lib.models.lite_discriminator import LiteDiscriminator
from lib.voice.infer_config import Network, build_network


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
