"""Base models: finds the weights that training starts from, and checks that they match their file names.

The folders of RVC programs (`pretrained`, `pretrained_v2`, also below `assets`) are searched too.
"""

import logging
from pathlib import Path
from typing import NamedTuple

from lib.assets import how_to_get
from lib.config import FamilyConfig
from lib.errors import CheckpointError, MissingFileError
from lib.installations import installations
from lib.messages import Message
from lib.paths import ROOT, VOICE_SUFFIXES
from lib.voice.infer_config import Kind, check_network, kind_of
from lib.voice.safe_load import read_weights
from lib.voice.weights import Weights, check_finite, check_shapes, meta_device, shapes_of
from train.networks import build_networks

logger = logging.getLogger(__name__)

CLASSICAL_FOLDERS = {"v1": "pretrained", "v2": "pretrained_v2"}
APPLIO_FOLDER = "rvc/models/pretraineds/hifi-gan"  # of v2


class BaseModels(NamedTuple):
    """The weights that training starts from."""

    generator: Weights
    discriminator: Weights
    folder: Path


def base_folders(family: str, root: Path = ROOT) -> list[Path]:
    """The folders searched for base models of a family, the project's own first."""
    own = root / "pretrained" / family
    if family not in CLASSICAL_FOLDERS:
        return [own]
    name = CLASSICAL_FOLDERS[family]
    folders = [own, root / name, root / "assets" / name]
    for other in installations():
        folders += [other / name, other / "assets" / name]
        if family == "v2":
            folders.append(other / APPLIO_FOLDER)
    return folders


def base_names(config: FamilyConfig) -> tuple[str, str]:
    """The file names of generator and discriminator, without suffix: f0G40k and f0D40k, for lite G and D."""
    if config.family == "lite":
        return "G", "D"
    f0, rate = "f0" if config.synthesizer.has_f0 else "", f"{config.audio.sample_rate // 1000}k"
    return f"{f0}G{rate}", f"{f0}D{rate}"


def has_base(config: FamilyConfig, root: Path = ROOT) -> bool:
    """Whether a folder has files named as the base models of a family; they are not read."""
    names = base_names(config)
    return any(all(_file(folder, name) for name in names) for folder in base_folders(config.family, root))


def find_base(config: FamilyConfig, root: Path = ROOT) -> BaseModels | None:
    """The base models of a family, strictly checked; None if there are none.

    MissingFileError if only one of the two is there; CheckpointError if a file does not match its name.
    """
    if config.family == "lite" and not config.synthesizer.has_f0:
        return None
    names = base_names(config)
    for folder in base_folders(config.family, root):
        files = [_file(folder, name) for name in names]
        if files == [None, None]:
            continue
        for name, file in zip(names, files, strict=True):
            if file is None:
                raise MissingFileError(
                    folder / f"{name}.pth",
                    "The other base model is there. `python -m lib.assets list` shows the files that exist; "
                    "`--no-base` trains without.",
                )
        generator, discriminator = (file for file in files if file is not None)
        logger.info("base models: %s and %s", generator, discriminator)
        return BaseModels(_read_generator(generator, config), _read_discriminator(discriminator, config), folder)
    return None


def without_base(config: FamilyConfig, *, wanted: bool = True) -> Message:
    """The warning for training from scratch; `wanted`: base models were to be used but are not installed."""
    name = f"{config.family}-{config.audio.sample_rate // 1000}k{'' if config.synthesizer.has_f0 else '-nof0'}"
    if not wanted or config.family == "lite":
        return Message(
            "The voice is trained from scratch, without base models. With less than several hours of recordings the "
            "result will be unusable."
        )
    return Message(
        "No base models are installed for {family} at {rate}k, so the voice is trained from scratch. With less than "
        "several hours of recordings the result will be unusable. {remedy}",
        family=config.family, rate=config.audio.sample_rate // 1000, remedy=how_to_get(name),
    )  # fmt: skip


def _file(folder: Path, name: str) -> Path | None:
    return next((path for suffix in VOICE_SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def _read_generator(path: Path, config: FamilyConfig) -> Weights:
    """The weights of a base generator. CheckpointError if it is of another family or rate, or does not fit."""
    weights = read_weights(path)
    wanted = Kind(config.family, config.audio.sample_rate, config.synthesizer.has_f0)
    found = kind_of(weights, str(path))
    if found != wanted:
        raise CheckpointError(
            "{path} is a base generator of {found}, but this training run needs one of {wanted}. "
            "`python -m lib.assets list` shows the files that exist; `--no-base` trains without.",
            path=path, found=found.message, wanted=wanted.message,
        )  # fmt: skip
    check_network(weights, config.synthesizer, str(path), posterior=True)
    return weights


def _read_discriminator(path: Path, config: FamilyConfig) -> Weights:
    """The weights of a base discriminator. CheckpointError if it is of another family or does not fit."""
    weights = read_weights(path)
    found = len({key.split(".")[1] for key in weights if key.startswith("discriminators.")})
    wanted = config.discriminator.count  # v1 and v2 differ in the periods
    if found != wanted:
        raise CheckpointError(
            "{path} is not a base discriminator of the family {family}: it has {found} sub-discriminators instead of "
            "{wanted}. `python -m lib.assets list` shows the files that exist; `--no-base` trains without.",
            path=path, family=config.family, found=found, wanted=wanted,
        )  # fmt: skip
    with meta_device():
        network = build_networks(config).discriminator
    check_shapes(shapes_of(network), weights, str(path))
    check_finite(weights, str(path))
    return weights
