"""Evaluations of a training run on its held-out recordings: the best epoch, and whether the voice is overtrained.

Importing this module does not import torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lib.messages import Message

STAGE = "held_out"  # of the events
PATIENCE = 5  # evaluations after the best one, all worse, until the voice counts as overtrained
MARGIN = 0.01  # by which their mean is worse, as a share of the best mel distance


class Evaluation(NamedTuple):
    """How well a voice reconstructs the held-out recordings."""

    step: int
    epoch: int
    mel: float  # mean |difference| of the log mel spectrograms, in nepers
    f0_cents: float | None  # median |difference| where both are voiced; None without F0
    voicing: float | None  # share of the frames of which one is voiced and the other not
    similarity: float | None = None  # mean cosine of the speaker embeddings; None without a speaker encoder


def read_history(events: Iterable[Mapping[str, Any]], last_step: int | None = None) -> list[Evaluation]:
    """Return the evaluations in "held_out" events up to a step, sorted by step; if a step has two, the later one."""
    found: dict[int, Evaluation] = {}
    for event in events:
        step, mel = event.get("done"), event.get("mel")
        if isinstance(step, int) and isinstance(mel, int | float) and (last_step is None or step <= last_step):
            others = (_number(event.get(key)) for key in ("f0_cents", "voicing", "similarity"))
            found[step] = Evaluation(step, int(event.get("epoch") or 0), float(mel), *others)
    return [found[step] for step in sorted(found)]


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def best_of(history: Sequence[Evaluation]) -> Evaluation | None:
    """Return the evaluation with the smallest mel distance."""
    return min(history, key=lambda item: item.mel, default=None)


def is_overtrained(history: Sequence[Evaluation]) -> bool:
    """Whether the last evaluations are clearly worse than the best one before them."""
    best = best_of(history)
    if best is None:
        return False
    since = history[history.index(best) + 1 :][-PATIENCE:]
    return len(since) == PATIENCE and sum(item.mel for item in since) / PATIENCE > best.mel * (1 + MARGIN)


def describe_best(history: Sequence[Evaluation], voice: Path | None = None) -> Message | None:
    """Describe the best epoch and its voice in one sentence; None if there are no evaluations."""
    best = best_of(history)
    if best is None:
        return None
    last, file = history[-1], "" if voice is None else voice.name
    if is_overtrained(history):
        return Message(
            "The voice is overtrained: its held-out recordings were reconstructed best at epoch {epoch} (mel distance "
            "{best:.3f}, now {last:.3f}). Go back to that epoch: {file}.",
            epoch=best.epoch, best=best.mel, last=last.mel, file=file,
        )  # fmt: skip
    return Message(
        "Best epoch so far on the held-out recordings: {epoch} (mel distance {best:.3f}, now {last:.3f}), saved as "
        "{file}.",
        epoch=best.epoch, best=best.mel, last=last.mel, file=file,
    )  # fmt: skip
