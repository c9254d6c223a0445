"""Losses of the GAN step: functions of tensors, always computed in float32.

Least-squares adversarial losses and feature matching of HiFi-GAN (Kong et al. 2020), KL divergence of VITS (Kim et al.
2021).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lib.models.discriminators import DiscriminatorOutput


def discriminator_parts(
    real: Sequence[DiscriminatorOutput], generated: Sequence[DiscriminatorOutput]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return, per sub-discriminator, mean (1 - D(real))^2 and mean D(generated)^2."""
    return (
        [(1 - output.score.float()).square().mean() for output in real],
        [output.score.float().square().mean() for output in generated],
    )


def generator_loss(generated: Sequence[DiscriminatorOutput]) -> Tensor:
    """Least-squares loss of the generator: sum over sub-discriminators of mean (1 - D(generated))^2."""
    return torch.stack([(1 - output.score.float()).square().mean() for output in generated]).sum()


def feature_loss(real: Sequence[DiscriminatorOutput], generated: Sequence[DiscriminatorOutput]) -> Tensor:
    """Twice the sum over all layers of mean |features of real - features of generated|; no gradient to real."""
    distances = [
        (a.detach().float() - b.float()).abs().mean()
        for true, made in zip(real, generated, strict=True)
        for a, b in zip(true.features, made.features, strict=True)
    ]
    return 2 * torch.stack(distances).sum()


def kl_loss(
    latent_prior: Tensor, log_scale_posterior: Tensor, mean_prior: Tensor, log_scale_prior: Tensor, mask: Tensor
) -> Tensor:
    """KL divergence of the posterior from the prior, all [B, Z, F], mask [B, 1, F].

    It is summed over channels and averaged over frames.
    """
    return kl_sum(latent_prior, log_scale_posterior, mean_prior, log_scale_prior, mask) / mask.float().sum()


def kl_sum(
    latent_prior: Tensor, log_scale_posterior: Tensor, mean_prior: Tensor, log_scale_prior: Tensor, mask: Tensor
) -> Tensor:
    """Return the sum that `kl_loss` divides by the number of frames; the sums of parts of a batch are additive."""
    kl = log_scale_prior.float() - log_scale_posterior.float() - 0.5
    kl = kl + 0.5 * (latent_prior.float() - mean_prior.float()).square() * torch.exp(-2.0 * log_scale_prior.float())
    return (kl * mask.float()).sum()
