"""One training step on one batch: update the discriminator, then the generator, in micro-batches if memory is short.

When memory runs out, the update being computed restarts with smaller micro-batches, whose gradients add up to those of
the whole batch; no update is lost or applied twice.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from accelerate.utils import reduce
from torch import Tensor, nn

from lib.errors import ConfigError
from train.dataset import Batch
from train.distributed import describe_process
from train.objective import Discriminate, Losses
from train.state import TrainState, set_learning_rate, update_average

logger = logging.getLogger(__name__)


class _MicroBatch(NamedTuple):
    """Some clips of the batch."""

    batch: Batch
    starts: Tensor | None  # given first frames of the segments
    share: float  # of the clips of the batch
    is_last: bool

    @property
    def is_whole(self) -> bool:
        return self.is_last and self.share == 1


def train_step(
    state: TrainState, batch: Batch, starts: Tensor | None = None, temperature: float = 1.0
) -> dict[str, float]:
    """Update both networks; return losses and gradient norms, keyed by TensorBoard name.

    They are means over the processes. `starts` [B] fixes the segments, and a `temperature` of 0 removes the noise.
    Raises ConfigError if not even one clip fits into memory, or if the batch does not fit and several processes train.
    """
    work = _Step(state, batch, starts, temperature)
    set_learning_rate(state)
    values: Losses = {}
    try:
        if work.is_adversarial:
            values |= work.compute_gradients(work.discriminator_losses, state.discriminator)
            values["grad_norm_d"] = _apply_gradients(state, state.optimizer_d, state.discriminator)
            # The generator's losses need gradients through the discriminator, not of its weights.
            state.plain_discriminator.requires_grad_(False)
        values |= work.compute_gradients(work.generator_losses, state.generator)
        values["grad_norm_g"] = _apply_gradients(state, state.optimizer_g, state.generator)
    finally:
        state.plain_discriminator.requires_grad_(True)
    if state.accelerator.scaler is not None:
        state.accelerator.scaler.update()  # once per step, for both optimisers
    means = reduce(torch.stack([value.detach().float() for value in values.values()]), "mean")
    numbers = means.tolist()  # the only synchronisation with the device
    state.progress.step += 1
    update_average(state)
    state.objective.finish_step(state.plain_generator, state.averaged, state.progress.step)
    return dict(zip(values, numbers, strict=True))


def _apply_gradients(state: TrainState, optimizer: Any, network: nn.Module) -> Tensor:
    """Update the weights and return the 2-norm of the gradients. They are not clipped."""
    scaler = state.accelerator.scaler
    if scaler is not None:
        scaler.unscale_(optimizer.optimizer)
    norm = torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer.optimizer)  # Accelerate's step would also update the scaler: twice per batch
    return norm


class _Step:
    """The data shared by both updates of a step: batch, random state, and output of the generator."""

    def __init__(self, state: TrainState, batch: Batch, starts: Tensor | None, temperature: float) -> None:
        self.state = state
        self.batch = batch
        self.starts = starts
        self.temperature = temperature
        self.clips = len(batch.lengths)
        self.number = state.progress.step
        self.is_adversarial = state.objective.uses_discriminator(self.number)
        # A mean over frames is one over those of the whole batch, of which micro-batches and processes have a part.
        self.frames = reduce(batch.lengths.sum().float().to(state.accelerator.device), "mean")
        self.random = _random_state(state.accelerator.device)
        self.output: Any = None  # of the generator for the whole batch, with its graph

    # --- micro-batches -----------------------------------------------------------------------------------------------

    def compute_gradients(self, losses_of: Callable[[_MicroBatch], Losses], network: nn.Module) -> Losses:
        """Compute the gradients of `network` and return the losses; restart with smaller micro-batches if needed."""
        while True:
            try:
                return self._all_micro_batches(losses_of, network)
            except torch.OutOfMemoryError:
                pass  # handled below, because the exception refers to the tensors to be freed
            self.output = None
            network.zero_grad(set_to_none=True)
            if self.state.accelerator.device.type == "cuda":
                torch.cuda.empty_cache()
            self._use_smaller_micro_batches()

    def _all_micro_batches(self, losses_of: Callable[[_MicroBatch], Losses], network: nn.Module) -> Losses:
        network.zero_grad(set_to_none=True)
        if self.output is None:
            _set_random_state(self.random, self.state.accelerator.device)  # both updates use the same noise
        values: Losses = {}
        for part in self._micro_batches():
            unsynchronised = contextlib.nullcontext() if part.is_last else self.state.accelerator.no_sync(network)
            with unsynchronised:
                for name, value in losses_of(part).items():
                    values[name] = values.get(name, torch.zeros((), device=value.device)) + part.share * value.detach()
        return values

    def _micro_batches(self) -> Iterator[_MicroBatch]:
        size = min(self.state.micro_batch or self.clips, self.clips)
        for first in range(0, self.clips, size):
            rows = slice(first, min(first + size, self.clips))
            starts = None if self.starts is None else self.starts[rows]
            batch = self.batch if size == self.clips else Batch(*(tensor[rows] for tensor in self.batch))
            yield _MicroBatch(batch, starts, (rows.stop - first) / self.clips, rows.stop == self.clips)

    def _use_smaller_micro_batches(self) -> None:
        """For the rest of the run, compute half as many clips at once; a single one with gradient checkpointing.

        Raises ConfigError if that has already been done.
        """
        state = self.state
        size = min(state.micro_batch or self.clips, self.clips)
        device = state.accelerator.device
        if state.accelerator.num_processes > 1:
            raise ConfigError(
                "A batch of {clips} clips does not fit into the memory of {device} ({process}). Continue with "
                "--batch-size {fewer}.",
                clips=self.clips, device=device, process=describe_process(state.accelerator), fewer=max(1, size // 2),
            )  # fmt: skip
        if size == 1 and not state.checkpoints_gradients:
            state.checkpoint_gradients()
            logger.warning(
                "out of memory on %s with one clip: using gradient checkpointing from now on, which is slower", device
            )
            return
        if size == 1:
            raise ConfigError(
                "Not even one clip at a time fits into the memory of {device}. Close other programs, train a "
                "smaller family (lite), or use "
                "another device.",
                device=device,
            )
        state.micro_batch = -(-size // 2)
        logger.warning(
            "out of memory on %s: from now on, the batch of %d clips is computed in micro-batches of %d, with equal "
            "results", device, self.clips, state.micro_batch,
        )  # fmt: skip

    # --- the two updates ---------------------------------------------------------------------------------------------

    def discriminator_losses(self, part: _MicroBatch) -> Losses:
        """Losses of the discriminator; computes its gradients."""
        output = self._forward(part, with_graph=False)
        parts = self.state.objective.discriminator_losses(
            self._discriminate(self.state.discriminator), part.batch, output
        )
        total = self._backward(parts, part.share)
        return {"loss/d/total": total} | {f"loss/{name}": value for name, value in parts.items()}

    def generator_losses(self, part: _MicroBatch) -> Losses:
        """Losses of the generator; computes its gradients."""
        output = self._forward(part, with_graph=True)
        discriminate = self._discriminate(self.state.plain_discriminator) if self.is_adversarial else None
        parts = self.state.objective.generator_losses(discriminate, part.batch, output, self.frames * part.share)
        total = self._backward(parts, part.share)
        return {"loss/g/total": total} | {f"loss/g/{name}": value for name, value in parts.items()}

    def _forward(self, part: _MicroBatch, *, with_graph: bool) -> Any:
        """Return the generator's output for a micro-batch; that of a whole batch is computed once, for both updates."""
        if self.output is not None:
            return self.output
        state, with_graph = self.state, with_graph or part.is_whole
        network = state.generator if with_graph else state.plain_generator
        with torch.set_grad_enabled(with_graph), state.accelerator.autocast():
            output = state.objective.forward(network, part.batch, part.starts, self.temperature, self.number)
        if part.is_whole:
            self.output = output
        return output

    def _discriminate(self, network: nn.Module) -> Discriminate:
        def discriminate(audio: Tensor) -> Any:
            with self.state.accelerator.autocast():
                return network(audio)

        return discriminate

    def _backward(self, parts: Losses, share: float) -> Tensor:
        """Add the gradients of the sum of some losses, weighted by `share`; returns the sum."""
        total = torch.stack(list(parts.values())).sum()
        self.state.accelerator.backward(total * share)
        return total


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The random state of the CPU, and of the GPU if one is used."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
