"""A training run with a fixed number of steps: one-cycle learning rate, bit-exact resumption, losses logged as JSON
lines."""

import json
import logging
import random
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.files import replacing
from lib.progress import Progress

logger = logging.getLogger(__name__)

LOG_EVERY, SAVE_EVERY = 50, 200  # steps
SMOOTHING = 0.95  # of the logged losses: weight of the steps before


class ScheduledTraining(ABC):
    """Networks with their optimiser, schedule and random states."""

    def __init__(
        self, networks: nn.Module, optimizer: torch.optim.Optimizer, rates: float | list[float], steps: int,
        *, warm_up: float, seed: int,
    ) -> None:  # fmt: skip
        """`rates` are the maximum learning rates; `warm_up` is the fraction of the steps spent warming up to them."""
        self.networks, self.optimizer, self.steps = networks, optimizer, steps
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, steps, pct_start=warm_up)
        self.rng, self.noise = random.Random(seed), torch.Generator().manual_seed(seed)
        self.step = 0

    @abstractmethod
    def train_step(self) -> dict[str, float]:
        """Run one step and return the losses."""

    def _update(self, loss: Tensor) -> None:
        """Update the networks to lower the loss, and count the step."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1

    def save(self, path: Path) -> None:
        """Write the complete training state."""
        state = {
            "networks": self.networks.state_dict(), "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(), "step": self.step, "noise": self.noise.get_state(),
            "random": list(self.rng.getstate()[1]), **self._extra(),
        }  # fmt: skip
        with replacing(path) as temporary:
            torch.save(state, temporary)

    def _extra(self) -> dict[str, Any]:
        """Entries of the state that other commands read."""
        return {}

    def resume(self, path: Path) -> None:
        """Restore the state that `save` wrote, if there is one."""
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True)
        self.networks.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.noise.set_state(state["noise"])
        self.rng.setstate((3, tuple(state["random"]), None))
        self.step = state["step"]
        logger.info("continuing at step %d", self.step)

    def run(self, target: Path, what: str, progress: Progress) -> None:
        """Resume from `target`, run all remaining steps and save to it.

        The smoothed losses are appended to a `.jsonl` of the same name.
        """
        self.resume(target)
        started, recent = time.monotonic(), dict[str, float]()
        with target.with_suffix(".jsonl").open("a", encoding="utf-8") as log:
            while self.step < self.steps:
                losses = self.train_step()
                recent = {n: SMOOTHING * recent.get(n, loss) + (1 - SMOOTHING) * loss for n, loss in losses.items()}
                if self.step % LOG_EVERY == 0:
                    seconds = round(time.monotonic() - started, 1)
                    log.write(json.dumps({"step": self.step, "seconds": seconds, **recent}) + "\n")
                    log.flush()
                if self.step % SAVE_EVERY == 0 or self.step == self.steps:
                    self.save(target)
                progress(self.step, self.steps, what)
