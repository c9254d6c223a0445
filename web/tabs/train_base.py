"""Base models uploaded in the web UI: identified by their tensors, and kept in the folder of the run."""

from collections.abc import Sequence
from pathlib import Path

from lib.files import copy_file
from web.jobs.requests import TrainRequest

BASE = "base"  # below an experiment's folder

Pair = tuple[Path, Path]  # generator and discriminator


def dropped_base(files: Sequence[str] | None) -> Pair | None:
    """Return the generator and the discriminator among uploaded files; None if there are no files.

    Raises ConfigError unless there is exactly one of each.
    """
    if not files:
        return None
    from train.base_models import pair_of

    return pair_of([Path(path) for path in files])


def with_base(work: TrainRequest, base: Pair | None) -> TrainRequest:
    """Return the request with `base` as its base models; if `base` is None, the request is unchanged."""
    if base is None:
        return work
    chosen = {"base": True, "base_generator": base[0], "base_discriminator": base[1]}
    return work.model_copy(update={"options": work.options.model_copy(update=chosen)})


def keep_base(base: Pair | None, folder: Path) -> Pair | None:
    """Copy an uploaded generator and discriminator to folder/base/G.pth and D.pth, and return these paths.

    Gradio deletes its own copies after some time.
    """
    if base is None:
        return None
    kept = tuple(folder / BASE / f"{name}{path.suffix.lower()}" for name, path in zip("GD", base, strict=True))
    for source, target in zip(base, kept, strict=True):
        copy_file(source, target)
    return kept[0], kept[1]
