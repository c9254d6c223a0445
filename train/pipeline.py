"""The stages of training, in order, and whether a stage is done.

A stage is done if the fingerprint of its inputs matches the recorded one and its outputs exist. Running a stage again
invalidates the later stages, except training, which continues with the new clips. Importing this module does not import
torch.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from train.checkpoint_index import find_pairs, read_index
from train.experiment import Experiment
from train.options import ExtractOptions, FitOptions, IndexOptions, PrepareOptions

STAGES: dict[str, type[BaseModel]] = {  # with their options
    "prepare": PrepareOptions, "extract": ExtractOptions, "index": IndexOptions, "fit": FitOptions,
}  # fmt: skip
SHARED_STAGES = ("extract", "fit")  # several processes can share their work


def fingerprint(*inputs: Any) -> str:
    """Return a short hash of JSON-serialisable values: equal inputs give the same string."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:16]


def is_done(experiment: Experiment, stage: str, made_from: str, *outputs: Path) -> bool:
    """Whether a stage was done with these inputs (a fingerprint) and its outputs still exist."""
    return experiment.stage(stage).get("made_from") == made_from and all(path.exists() for path in outputs)


def record(experiment: Experiment, stage: str, **facts: Any) -> None:
    """Record a stage with at least `made_from`, and discard the records of the stages that depend on it."""
    names = list(STAGES)
    depending = names[names.index(stage) + 1 : names.index("fit")]
    experiment.update_record({stage: facts}, discard=depending)


def finished_training(experiment: Experiment, epochs: int) -> tuple[int, int, Path] | None:
    """Return epochs, steps and newest generator checkpoint of an experiment whose epochs are all done; otherwise None.

    Its voice must also have been exported. Raises CheckpointError if there are checkpoints but no intact pair.
    """
    if not (experiment.checkpoint_pairs() and experiment.voice.is_file()):
        return None
    index = read_index(experiment.folder)
    newest = find_pairs(index)[0][0]
    if newest.facts is not None and index.exported != newest.step:  # killed between checkpoint and voice
        return None
    return (newest.epoch, newest.step, newest.generator) if newest.epoch >= epochs else None


def clips_have_changed(experiment: Experiment) -> bool:
    """Whether features have been extracted again after the newest checkpoint of the run."""
    return bool(experiment.stage("fit").get("made_from") != experiment.stage("extract").get("made_from"))
