"""The training state: networks, optimisers, exponential moving average (EMA) of the weights, and progress.

The Accelerator determines device, precision and processes.
"""

import copy
import logging
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn

from lib.config import FamilyConfig
from lib.devices import has_fast_bfloat16
from lib.errors import ConfigError
from lib.models.discriminators import Discriminator
from lib.models.lite_discriminator import LiteDiscriminator
from lib.voice.infer_config import Network
from train.distributed import TIMEOUT
from train.networks import build_networks, checkpoint_gradients, make_objective
from train.objective import Objective

logger = logging.getLogger(__name__)

AVERAGED_PART = 4  # about 1/4 of all steps are averaged (polynomial decay, Shamir & Zhang 2013, eta = 3)
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass
class TrainProgress:
    """The training progress; checkpoints store these values."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # batches done in the epoch after them
    step: int = 0  # optimiser steps in total
    seconds: float = 0.0  # training time in total

    def finish_batch(self, batches_per_epoch: int) -> None:
        """Count a finished batch; after the last batch of an epoch, count the epoch and start again at batch 0."""
        self.batch += 1
        if self.batch == batches_per_epoch:
            self.epoch, self.batch = self.epoch + 1, 0


@dataclass
class TrainState:
    """Everything that a training step reads and changes. Build it with `make_state`."""

    config: FamilyConfig
    accelerator: Accelerator
    objective: Objective
    learning_rate: float  # at the first epoch
    generator: nn.Module  # as Accelerate wraps it, with gradients reduced over all processes
    discriminator: nn.Module  # likewise
    optimizer_g: Any  # AcceleratedOptimizer
    optimizer_d: Any
    averaged: Network | None  # the generator with averaged weights, where the family uses them
    progress: TrainProgress = field(default_factory=TrainProgress)
    from_base: bool = False  # whether the run began with the weights of a base model
    micro_batch: int | None = None  # clips computed at once; None: the whole batch
    checkpoints_gradients: bool = False  # whether activations are computed again instead of kept

    def checkpoint_gradients(self) -> None:
        """Turn on gradient checkpointing, so that fewer activations are stored."""
        if not self.checkpoints_gradients:
            checkpoint_gradients(self.plain_generator)
            self.checkpoints_gradients = True

    def start_from_base(self) -> None:
        """Train only the weights of a base model that the objective adapts."""
        self.from_base = True
        self.objective.start_from_base(self.plain_generator)

    @property
    def plain_generator(self) -> Network:
        """The generator without Accelerate's wrapper."""
        return self.accelerator.unwrap_model(self.generator)  # type: ignore[no-any-return]

    @property
    def plain_discriminator(self) -> Discriminator | LiteDiscriminator:
        """The discriminator without Accelerate's wrapper."""
        return self.accelerator.unwrap_model(self.discriminator)  # type: ignore[no-any-return]

    @property
    def voice(self) -> Network:
        """The generator to export: with EMA weights if the family uses them."""
        return self.averaged or self.plain_generator


def make_state(
    config: FamilyConfig,
    accelerator: Accelerator,
    learning_rate: float | None = None,
    objective: Objective | None = None,
) -> TrainState:
    """Build the networks with random initial weights, and their optimisers, on the device of the Accelerator.

    `learning_rate` and `objective` default to those of the family.
    """
    objective = objective or make_objective(config)
    learning_rate = learning_rate or config.train.learning_rate
    networks = build_networks(config)
    averaged = copy.deepcopy(networks.generator).to(accelerator.device).eval() if config.average else None
    settings: dict[str, Any] = {
        "lr": learning_rate, "betas": config.train.betas, "eps": config.train.eps, "fused": True,
    }  # fmt: skip
    optimizer_g, optimizer_d = (
        accelerator.prepare(torch.optim.AdamW(network.to(accelerator.device).parameters(), **settings))
        for network in networks
    )
    if objective.has_phases:
        accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
    generator, discriminator = accelerator.prepare(*networks)
    return TrainState(
        config, accelerator, objective, learning_rate, generator, discriminator, optimizer_g, optimizer_d, averaged
    )


def begin_epoch(state: TrainState) -> None:
    """Set the learning rate of both optimisers, decayed by `lr_decay` per finished epoch."""
    rate = state.learning_rate * state.config.train.lr_decay**state.progress.epoch
    for optimizer in (state.optimizer_g, state.optimizer_d):
        for group in optimizer.param_groups:
            group["lr"], group["initial_lr"] = rate, state.learning_rate


def set_learning_rate(state: TrainState) -> None:
    """Set the generator's learning rate for the next step: that of the epoch times the objective's factor."""
    factor = state.objective.learning_rate_factor(state.progress.step)
    for own, other in zip(state.optimizer_g.param_groups, state.optimizer_d.param_groups, strict=True):
        own["lr"] = factor * other["lr"]


def update_average(state: TrainState) -> None:
    """Update the EMA of the generator's weights: averaged += share * (current - averaged); the first step copies them.

    share = max(1 - config.average, 4 / (step + 3)). Does nothing for families without EMA weights.
    """
    if state.averaged is not None:
        share = max(1 - state.config.average, AVERAGED_PART / (state.progress.step - 1 + AVERAGED_PART))
        with torch.no_grad():
            for mean, new in zip(state.averaged.parameters(), state.plain_generator.parameters(), strict=True):
                mean.lerp_(new, share)


def choose_precision(wanted: Precision, device: torch.device) -> tuple[Literal["no", "bf16", "fp16"], str]:
    """Return Accelerate's name for the training precision, and the reason.

    Raises ConfigError if fp16 is requested on a CPU.
    """
    if wanted == "fp32":
        return "no", "requested"
    if wanted == "fp16" and device.type == "cpu":
        raise ConfigError("Training in fp16 is not supported on a CPU. Use --precision bf16, fp32 or auto.")
    if wanted != "auto":
        return wanted, "requested"
    if has_fast_bfloat16(device):
        return "bf16", f"this {device.type} has fast bfloat16 instructions"
    return "no", f"this {device.type} has no fast bfloat16 instructions"


def make_accelerator(precision: Precision, device: torch.device) -> Accelerator:
    """Return the Accelerator of this process: on the CPU if `device` is the CPU, otherwise on the current GPU."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if PartialState._shared_state and PartialState().num_processes == 1:
        AcceleratorState._reset_state(
            reset_partial_state=True
        )  # or a second run in this process would keep the precision of the first
    chosen, reason = choose_precision(precision, device)
    logger.info("training on %s in precision %s (%s)", device, chosen, reason)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=chosen,
        # The loader's batch is that of all processes together; each process takes its part of it.
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
    )
