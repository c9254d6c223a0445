"""The adversarial training step, and the state around it: two networks, two optimisers, one Accelerator.

Spec: training, "Training step". Accelerate decides device, precision and processes; nothing else here does.
"""

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DataLoaderConfiguration, InitProcessGroupKwargs
from torch import Tensor, nn

from lib.audio import mel
from lib.config import FamilyConfig
from lib.devices import has_fast_bfloat16
from lib.errors import CheckpointError, ConfigError
from lib.models.discriminators import Discriminator
from lib.models.synthesizer import Synthesizer
from lib.voice.training_state import TrainingState, optimizer_for, read_training_state, write_training_state
from lib.voice.weights import Weights, load_weights, rvc_state_dict
from train.dataset import Batch
from train.distributed import PATIENCE, Processes
from train.step import Step

logger = logging.getLogger(__name__)

AVERAGED_PART = 4  # the average reaches over about this part of all steps (Shamir & Zhang 2013, eta = 3)
EARLIER = "Go back to an earlier checkpoint."
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass
class Position:
    """How far a run is; everything the loop changes besides weights and optimisers."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # batches done in the epoch after them
    step: int = 0  # optimiser steps in all
    seconds: float = 0.0  # training time in all


@dataclass(frozen=True)
class SpectrumConstants:
    """Guards of the mel spectrogram; the published base models were trained with these (spec: README, decisions)."""

    epsilon: float = mel.MAGNITUDE_EPSILON
    floor: float = mel.MEL_FLOOR


def choose_precision(wanted: Precision, device: torch.device) -> tuple[Literal["no", "bf16", "fp16"], str]:
    """Return Accelerate's name of the precision to train in, and why."""
    if wanted == "fp32":
        return "no", "asked for"
    if wanted == "fp16" and device.type == "cpu":
        raise ConfigError("A CPU cannot train in fp16. Use --precision bf16, fp32 or auto.")
    if wanted != "auto":
        return wanted, "asked for"
    if has_fast_bfloat16(device):
        return "bf16", f"this {device.type} computes in bfloat16"
    return "no", f"no fast bfloat16 on this {device.type}"


def make_accelerator(precision: Precision, device: torch.device) -> Accelerator:
    """The Accelerator of this process: on a CPU if `device` is one, else on the current GPU."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if PartialState._shared_state and PartialState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)  # else a second training here keeps the first's choice
    chosen, reason = choose_precision(precision, device)
    logger.info("training on %s in precision %s (%s)", device, chosen, reason)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=chosen,
        # A batch of the loader is that of all processes together, and each takes its part of it.
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )


def _own_entry(state: TrainingState, path: Path) -> dict[str, Any]:
    """What `save` added to a training state; empty in files of other programs. CheckpointError if it is damaged."""
    own = state.extra.get("revoice")
    if own is None:
        return {}
    numbers = [own.get(name) for name in ("epoch", "batch", "step", "seconds")] if isinstance(own, dict) else []
    counts = all(type(number) is int and number >= 0 for number in numbers[:3])
    if not (numbers and counts and isinstance(numbers[3], int | float) and 0 <= numbers[3] < float("inf")):
        raise CheckpointError(f"{path} has a damaged entry 'revoice': it does not say how far the run is. {EARLIER}")
    return dict(own)


class Trainer:
    """Owns what is trained. `train_step` is a function of this state and a batch."""

    def __init__(
        self,
        config: FamilyConfig,
        accelerator: Accelerator,
        learning_rate: float | None = None,
        spectrum: SpectrumConstants | None = None,
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.processes = Processes(PartialState())
        self.part_rows: int | None = None  # clips computed at once, where a batch does not fit into memory
        self.spectrum = spectrum or SpectrumConstants()
        self.learning_rate = learning_rate or config.train.learning_rate
        self.position = Position()
        generator = Synthesizer(config.synthesizer, posterior=config.has_posterior)
        discriminator = Discriminator(config.discriminator)
        self._fix_source(generator)
        self._begin_prior(generator)
        self.average = copy.deepcopy(generator).to(accelerator.device).eval() if config.average else None
        settings: dict[str, Any] = {
            "lr": self.learning_rate, "betas": config.train.betas, "eps": config.train.eps, "fused": True,
        }  # fmt: skip
        self.optimizer_g, self.optimizer_d = (
            accelerator.prepare(torch.optim.AdamW(network.to(accelerator.device).parameters(), **settings))
            for network in (generator, discriminator)
        )
        self.generator, self.discriminator = accelerator.prepare(generator, discriminator)

    def _fix_source(self, generator: Synthesizer) -> None:
        """Give the sine source its fixed weight, where the family has one."""
        source, weight = generator.dec.m_source, self.config.source.weight
        if source is not None and weight is not None:
            nn.init.constant_(source.l_linear.weight, weight)
            nn.init.zeros_(source.l_linear.bias)
            source.requires_grad_(False)

    def _begin_prior(self, generator: Synthesizer) -> None:
        """Let the prior begin with little noise, and leave the posterior as it is, where the family says so."""
        assert generator.enc_p.proj.bias is not None
        if self.config.prior.log_scale is not None:
            with torch.no_grad():
                generator.enc_p.proj.bias[self.config.synthesizer.inter_channels :] = self.config.prior.log_scale
        if generator.enc_q is not None:
            generator.enc_q.requires_grad_(not self.config.prior.only)

    @property
    def synthesizer(self) -> Synthesizer:
        """The generator without the wrapping of Accelerate."""
        return self.accelerator.unwrap_model(self.generator)  # type: ignore[no-any-return]

    @property
    def voice(self) -> Synthesizer:
        """The generator that a voice is made of: averaged where the family says so, else as it is."""
        return self.average or self.synthesizer

    @property
    def plain_discriminator(self) -> Discriminator:
        """The discriminator without the wrapping of Accelerate."""
        return self.accelerator.unwrap_model(self.discriminator)  # type: ignore[no-any-return]

    def begin_epoch(self) -> float:
        """Set the learning rate of the epoch that begins (falling by `lr_decay` per epoch) and return it."""
        rate = self.learning_rate * self.config.train.lr_decay**self.position.epoch
        for optimizer in (self.optimizer_g, self.optimizer_d):
            for group in optimizer.param_groups:
                group["lr"], group["initial_lr"] = rate, self.learning_rate
        return rate

    # --- the step --------------------------------------------------------------------------------------------------

    def train_step(self, batch: Batch, starts: Tensor | None = None, temperature: float = 1.0) -> dict[str, float]:
        """One step of both optimisers -> losses and gradient norms by their TensorBoard names.

        `starts` [B] fixes the segments and `temperature` 0 removes the noise; the golden steps need both.
        """
        found = Step(self, batch, starts, temperature).run()
        self.position.step += 1
        self._follow()
        return found

    def _follow(self) -> None:
        """Move the averaged generator towards the present one, in the beginning all the way."""
        if self.average is not None:
            share = max(1 - self.config.average, AVERAGED_PART / (self.position.step - 1 + AVERAGED_PART))
            with torch.no_grad():
                for mean, new in zip(self.average.parameters(), self.synthesizer.parameters(), strict=True):
                    mean.lerp_(new, share)

    def update(self, optimizer: Any, network: nn.Module) -> Tensor:
        """Step on the gradients that are there; returns their 2-norm. They are not clipped."""
        scaler = self.accelerator.scaler
        if scaler is not None:
            scaler.unscale_(optimizer.optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer.optimizer)  # Accelerate's step would update the scaler, too: twice per batch
        return norm

    # --- what is kept ----------------------------------------------------------------------------------------------

    def load_base(self, generator: Weights | None, discriminator: Weights | None, where: str) -> None:
        """Start from the weights of base models, strictly; the sine source keeps its fixed weight."""
        if generator is not None:
            load_weights(self.synthesizer, generator, f"The base generator in {where}")
            self._fix_source(self.synthesizer)
        if discriminator is not None:
            load_weights(self.plain_discriminator, discriminator, f"The base discriminator in {where}")

    def save(self, generator: Path, discriminator: Path) -> None:
        """Write both training states; the pair carries the same position and the random state.

        Called in every process, because each has a random state of its own; the first one writes.
        """
        own = {**vars(self.position), **self._random_states()}
        if not self.processes.first:
            return
        networks = (
            (generator, self.synthesizer, self.optimizer_g),
            (discriminator, self.plain_discriminator, self.optimizer_d),
        )
        for path, network, optimizer in networks:
            state = TrainingState(
                weights=rvc_state_dict(network),
                epoch=self.position.epoch,
                optimizer=optimizer.state_dict(),
                learning_rate=self.learning_rate,
                average=rvc_state_dict(self.average) if path == generator and self.average is not None else None,
                extra={"revoice": own},
            )
            write_training_state(path, state)

    def _random_states(self) -> dict[str, Any]:
        """The random states of all processes, in the form in which checkpoints keep them."""
        device, states = self.accelerator.device, {}
        kinds = {"rng": torch.get_rng_state()}
        if device.type == "cuda":
            kinds["cuda_rng"] = torch.cuda.get_rng_state(device)
        for name, own in kinds.items():
            found = self.processes.gather(own)
            states[name] = found[0]
            if len(found) > 1:
                states[f"{name}_of_others"] = torch.stack(found[1:])
        return states

    def _restore_random(self, own: dict[str, Any]) -> None:
        """Go on with the random numbers of this process; one that the checkpoint does not know begins new ones."""
        index, device = self.processes.index, self.accelerator.device

        def state(name: str) -> Tensor | None:
            others = own.get(f"{name}_of_others", [])
            found: Tensor | None = own.get(name) if index == 0 else others[index - 1] if index <= len(others) else None
            return found

        cpu, cuda = state("rng"), state("cuda_rng")
        if index == 0 or cpu is not None:
            torch.set_rng_state(cast(Tensor, cpu))
        else:
            torch.manual_seed(self.position.step * self.processes.count + index)
        if cuda is not None and device.type == "cuda":
            torch.cuda.set_rng_state(cuda, device)

    def resume(self, generator: Path, discriminator: Path) -> None:
        """Continue from a pair of training states; CheckpointError if they do not belong together or do not fit."""
        states = [read_training_state(path) for path in (generator, discriminator)]
        own, other = (_own_entry(state, path) for state, path in zip(states, (generator, discriminator), strict=True))
        if states[0].epoch != states[1].epoch or own.get("step") != other.get("step"):
            raise CheckpointError(
                f"{generator.name} and {discriminator.name} are from different moments of the training. Move the "
                "older of them out of the folder."
            )
        networks = (
            (generator, states[0], self.synthesizer, self.optimizer_g),
            (discriminator, states[1], self.plain_discriminator, self.optimizer_d),
        )
        for path, state, network, optimizer in networks:
            load_weights(network, state.weights, path.name)
            if state.optimizer:
                optimizer.load_state_dict(optimizer_for(network, state, path.name))
        if self.average is not None:
            load_weights(self.average, states[0].voice, generator.name)
        if not own:  # written by another program, at the end of an epoch
            self.position = Position(epoch=states[0].epoch)
            return
        self.position = Position(own["epoch"], own["batch"], own["step"], float(own["seconds"]))
        try:
            self._restore_random(own)
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{generator} has a damaged random state. {EARLIER}") from error
