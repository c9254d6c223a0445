"""Base models dropped on the page: recognised by their tensors, and kept in the folder of the run."""

from collections.abc import Sequence
from pathlib import Path

from lib.files import copy_file
from web.jobs.requests import TrainRequest

BASE = "base"  # below an experiment's folder

Pair = tuple[Path, Path]  # generator and discriminator


def dropped_base(files: Sequence[str] | None) -> Pair | None:
    """Generator and discriminator among dropped files; None if there are none.

    Raises ConfigError unless there is one of each.
    """
    if not files:
        return None
    from train.base_models import pair_of

    return pair_of([Path(path) for path in files])


def with_base(work: TrainRequest, base: Pair | None) -> TrainRequest:
    """The request, to start from these files; as it is without any."""
    if base is None:
        return work
    chosen = {"base": True, "base_generator": base[0], "base_discriminator": base[1]}
    return work.model_copy(update={"options": work.options.model_copy(update=chosen)})


def keep_base(base: Pair | None, folder: Path) -> Pair | None:
    """Copy an uploaded generator and discriminator to folder/base/G.pth and D.pth, and return these paths.

    The page's own copies are deleted after some time.
    """
    if base is None:
        return None
    kept = tuple(folder / BASE / f"{name}{path.suffix.lower()}" for name, path in zip("GD", base, strict=True))
    for source, target in zip(base, kept, strict=True):
        copy_file(source, target)
    return kept[0], kept[1]
