"""Training checkpoints, `logs/<name>/{G,D}_*.pth`: weights, AdamW state, learning rate and progress of one network."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib.errors import CheckpointError
from lib.files import replacing
from lib.messages import Message
from lib.paths import VOICE_SUFFIXES
from lib.voice.safe_load import checked_state_dict, safe_load
from lib.voice.weights import Weights, check_finite, rvc_key, with_rvc_keys

GENERATOR = "generator_sha256"  # in the entry of this project in a discriminator's file


@dataclass
class TrainingState:
    """One network of a run, as stored in a `G_*.pth` or `D_*.pth`."""

    weights: Weights
    epoch: int  # the last finished epoch; the key `iteration` in the file
    optimizer: dict[str, Any]  # AdamW state dict; indices count the keys of `weights`
    learning_rate: float
    average: Weights | None = None  # written by this project only: averaged weights of the generator
    extra: dict[str, Any] = field(default_factory=dict)  # of this and other programs: step, position in the epoch, …

    @property
    def voice(self) -> Weights:
        """The weights for the voice: their exponential moving average (EMA) if there is one."""
        return self.average or self.weights


def is_training_state(path: Path) -> bool:
    """Whether a model file is a training checkpoint, G or D. Raises CheckpointError if it cannot be read."""
    if path.suffix.lower() != VOICE_SUFFIXES[0]:
        return False
    content = safe_load(path, lazily=True)
    return isinstance(content, dict) and "model" in content


def read_training_state(path: Path) -> TrainingState:
    """Read a training checkpoint, or a base model, which has only weights.

    Raises MissingFileError if the file does not exist, and CheckpointError if it is damaged or not a checkpoint.
    """
    content = safe_load(path)
    if isinstance(content, dict) and "weight" in content and "config" in content:
        raise CheckpointError("{path} is a finished voice, not a training checkpoint. Move it to weights/.", path=path)
    if not isinstance(content, dict) or "model" not in content:
        raise CheckpointError("{path} is not a training checkpoint: it lacks the entry 'model'.", path=path)
    weights = with_rvc_keys(checked_state_dict(content["model"], path))
    check_finite(weights, str(path))
    known = {"model", "iteration", "optimizer", "learning_rate", "average"}
    average = None
    if "average" in content:
        average = with_rvc_keys(checked_state_dict(content["average"], path))
        check_finite(average, str(path))
    try:
        return TrainingState(
            weights=weights,
            epoch=int(content.get("iteration") or 0),
            optimizer=dict(content.get("optimizer") or {}),
            learning_rate=float(content.get("learning_rate") or 0.0),
            average=average,
            extra={key: value for key, value in content.items() if key not in known},
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            "{path} is damaged: {detail}. Go back to an earlier checkpoint.", path=path, detail=str(error)
        ) from error


def peek_progress(path: Path) -> tuple[int, int]:
    """Return (finished epochs, steps) of a training checkpoint, without reading its tensors.

    Raises CheckpointError if the file is not a training checkpoint.
    """
    content = safe_load(path, lazily=True)
    try:
        return int(content["iteration"]), int(content.get("revoice", {}).get("step", 0))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError("{path} is not a training checkpoint. Move it out of the folder.", path=path) from error


def generator_of(path: Path) -> str | None:
    """Return the SHA-256 of the generator checkpoint that was saved together with this discriminator checkpoint.

    Returns None if the file does not record it. Raises CheckpointError or MachineError if the file cannot be read.
    """
    content = safe_load(path, lazily=True)
    own = content.get("revoice") if isinstance(content, dict) else None
    claimed = own.get(GENERATOR) if isinstance(own, dict) else None
    return claimed if isinstance(claimed, str) else None


def write_training_state(path: Path, state: TrainingState) -> None:
    """Write a training checkpoint in RVC's format, atomically. Raises RevoiceError if it cannot be written."""
    content = {
        "model": state.weights,
        "iteration": state.epoch,
        "optimizer": state.optimizer,
        "learning_rate": state.learning_rate,
    } | ({} if state.average is None else {"average": state.average})
    with replacing(path) as temporary:
        torch.save(content | state.extra, temporary)


def optimizer_for(module: nn.Module, state: TrainingState, where: str) -> dict[str, Any]:
    """Re-index an optimiser state by parameter name, so that checkpoints from other programs can be resumed.

    In a file, index i refers to the i-th key of its `model`, whose order differs between programs. Raises
    CheckpointError if the state does not belong to these weights.
    """
    stored, groups = state.optimizer.get("state"), state.optimizer.get("param_groups")
    if not isinstance(stored, dict) or not isinstance(groups, list):
        raise CheckpointError(
            "{path}: the optimiser state is not from AdamW. Go back to an earlier checkpoint.", path=where
        )
    if len(groups) != 1:
        raise CheckpointError(
            "{path}: the optimiser state has {count} parameter groups instead of one. Go back to an earlier "
            "checkpoint.",
            path=where,
            count=len(groups),
        )
    file_names = list(state.weights)
    if not all(isinstance(index, int) and 0 <= index < len(file_names) for index in stored):
        raise CheckpointError(
            "{path}: the optimiser state does not belong to the stored model. Go back to an earlier checkpoint.",
            path=where,
        )
    by_name = {file_names[index]: value for index, value in stored.items()}
    for name, moments in by_name.items():
        if problem := _problem_of_moments(moments, state.weights[name].shape):
            raise CheckpointError(
                "{path}: the optimiser state of {tensor} {problem}; the file is damaged. Go back to an earlier "
                "checkpoint.",
                path=where,
                tensor=name,
                problem=problem,
            )
    own_names = [rvc_key(name) for name, _ in module.named_parameters()]
    group = _checked_group(groups[0], where)
    return {
        "state": {index: by_name[name] for index, name in enumerate(own_names) if name in by_name},
        "param_groups": [group | {"params": list(range(len(own_names)))}],
    }


def _problem_of_moments(moments: Any, shape: torch.Size) -> Message | None:
    """Return what is invalid in AdamW's state of one parameter of that shape; None if nothing is."""
    try:
        pair = [moments["exp_avg"], moments["exp_avg_sq"]]
        if any(moment.shape != shape for moment in pair):
            return Message("has a different shape from its weights")
        numbers = [*pair, torch.as_tensor(float(moments["step"]))]
        if not all(number.is_floating_point() and torch.isfinite(number).all() for number in numbers):
            return Message("has numbers that are not finite")
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):
        return Message("is incomplete")
    return None


def _checked_group(group: Any, where: str) -> dict[str, Any]:
    """AdamW's settings from a file. Raises CheckpointError if they are incomplete or out of range."""
    try:
        numbers = [float(group[name]) for name in ("lr", "eps", "weight_decay")]
        betas = [float(beta) for beta in group["betas"]]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            "{path}: the settings of the optimiser are incomplete; the file is damaged. Go back to an earlier "
            "checkpoint.",
            path=where,
        ) from error
    if not (all(0 <= number < 1e6 for number in numbers) and len(betas) == 2 and all(0 <= beta < 1 for beta in betas)):
        raise CheckpointError(
            "{path}: the settings of the optimiser are out of range; the file is damaged. Go back to an earlier "
            "checkpoint.",
            path=where,
        )
    return {key: value for key, value in group.items() if key != "param_names"}
