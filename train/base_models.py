"""Base models: finds the weights from which training starts, and checks that they match their file names.

The folders of RVC programs (`pretrained`, `pretrained_v2`, also below `assets`) are searched, too.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lib.assets import how_to_get
from lib.config import FamilyConfig
from lib.content import canonical_name
from lib.errors import CheckpointError, ConfigError, MissingFileError
from lib.installations import installations
from lib.messages import Message
from lib.paths import ROOT, SAFETENSORS, VOICE_SUFFIXES, check_name
from lib.voice.infer_config import Kind, check_network, kind_of
from lib.voice.safe_load import read_safetensors, read_weights, safe_load
from lib.voice.weights import Weights, check_finite, check_shapes, meta_device, shapes_of
from train.networks import build_networks
from train.options import FitOptions

logger = logging.getLogger(__name__)

CLASSICAL_FOLDERS = {"v1": "pretrained", "v2": "pretrained_v2"}
APPLIO_FOLDER = "rvc/models/pretraineds/hifi-gan"  # of v2
BASES = "bases"  # below pretrained/: a folder for each base model that is chosen by name
MAX_FILES = 16  # in such a folder


class BaseModels(NamedTuple):
    """The weights from which training starts."""

    generator: Weights
    discriminator: Weights
    folder: Path


def base_folders(family: str, root: Path = ROOT) -> list[Path]:
    """Return the folders that are searched for base models of a family, this project's own first."""
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
    """Return the file names of generator and discriminator without suffix: f0G40k and f0D40k, for example.

    For the lite family they are G and D.
    """
    if config.family == "lite":
        return "G", "D"
    f0, rate = "f0" if config.synthesizer.has_f0 else "", f"{config.audio.sample_rate // 1000}k"
    return f"{f0}G{rate}", f"{f0}D{rate}"


def has_base(config: FamilyConfig, root: Path = ROOT) -> bool:
    """Whether a folder contains files with the names of the family's base models; they are not read."""
    names = base_names(config)
    return any(all(_file(folder, name) for name in names) for folder in base_folders(config.family, root))


def chosen_base(config: FamilyConfig, options: FitOptions, encoder: str, root: Path = ROOT) -> BaseModels | None:
    """Return the base models given in the options, otherwise those of the family; None if there are none.

    They are strictly checked. Raises ConfigError if only one of the two is given, MissingFileError if a file or folder
    does not exist, and CheckpointError if the family, sample rate, F0 use or content encoder of one differs from that
    of the training run.
    """
    generator, discriminator = options.base_generator, options.base_discriminator
    if (generator is None) != (discriminator is None):
        raise ConfigError(
            "A generator and a discriminator belong together. Specify both --base-generator and --base-discriminator."
        )
    if generator is not None and discriminator is not None:
        files = (generator, discriminator)
    elif options.base_model:
        files = _named_files(root / "pretrained" / BASES / check_name(options.base_model, "base model"))
    else:
        return find_base(config, root)
    for file in files:
        _check_encoder(file, encoder)
    logger.info("base models: %s and %s", *files)
    return BaseModels(_read_generator(files[0], config), _read_discriminator(files[1], config), files[0].parent)


def _named_files(folder: Path) -> tuple[Path, Path]:
    """Generator and discriminator in the folder of a base model, recognised by their tensors, not their names."""
    paths = [path for path in sorted(folder.glob("*")) if path.suffix in VOICE_SUFFIXES]
    if len(paths) > MAX_FILES:
        raise CheckpointError(
            "{folder} contains {count} files. Keep one G and one D file.", folder=folder, count=len(paths)
        )
    generators, discriminators = _by_kind(paths)
    if len(generators) != 1 or len(discriminators) != 1:
        raise MissingFileError(
            folder / "*.pth",
            "A base model is a folder in {bases} with one generator and one discriminator; this one has {generators} "
            "and {discriminators}.",
            bases=folder.parent, generators=len(generators), discriminators=len(discriminators),
        )  # fmt: skip
    return generators[0], discriminators[0]


def pair_of(paths: Sequence[Path]) -> tuple[Path, Path]:
    """Return the generator and the discriminator among the given files, which are identified by their tensors.

    Raises ConfigError unless there is exactly one of each, and CheckpointError if a file is not a model file.
    """
    generators, discriminators = _by_kind(paths[:MAX_FILES])
    if len(paths) > MAX_FILES or len(generators) != 1 or len(discriminators) != 1:
        raise ConfigError(
            "A base model consists of one generator (G) and one discriminator (D) file. Files given: {count}; "
            "discriminators among them: {found}. Add one of each.", count=len(paths), found=len(discriminators),
        )  # fmt: skip
    return generators[0], discriminators[0]


def _by_kind(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the files without a discriminator, and those with one."""
    discriminators = [path for path in paths if _is_discriminator(path)]
    return [path for path in paths if path not in discriminators], discriminators


def _is_discriminator(path: Path) -> bool:
    """Whether a file contains a discriminator, according to the names of its tensors."""
    tensors = _stored(path).get("model")
    return isinstance(tensors, dict) and any(str(key).startswith("discriminators.") for key in tensors)


def _stored(path: Path) -> dict[str, Any]:
    """The entries of a model file; tensors are not read."""
    if path.suffix == SAFETENSORS:
        tensors, entries = read_safetensors(path)
        return {"model": tensors, **entries}
    content = safe_load(path, lazily=True)
    return content if isinstance(content, dict) else {}


def _check_encoder(path: Path, wanted: str) -> None:
    """Raise CheckpointError if the file names another content encoder."""
    if not path.is_file():
        raise MissingFileError(path, "Specify the file of a base model.")
    declared = _stored(path).get("embedder_model")
    if isinstance(declared, str) and declared and canonical_name(declared) != canonical_name(wanted):
        raise CheckpointError(
            "{path} was trained with the content encoder {found!r}, but this training run uses {wanted!r}. Choose it "
            "with --content-encoder, or another base model.",
            path=path, found=declared, wanted=wanted,
        )  # fmt: skip


def find_base(config: FamilyConfig, root: Path = ROOT) -> BaseModels | None:
    """Return the base models of a family, strictly checked; None if there are none.

    Raises MissingFileError if only one of the two exists, and CheckpointError if a file does not match its name.
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
                    "Only the other file of the G/D pair was found. `python -m lib.assets list` shows the available "
                    "downloads; `--no-base` trains without base models.",
                )
        generator, discriminator = (file for file in files if file is not None)
        logger.info("base models: %s and %s", generator, discriminator)
        return BaseModels(_read_generator(generator, config), _read_discriminator(discriminator, config), folder)
    return None


def without_base(config: FamilyConfig, *, wanted: bool = True) -> Message:
    """Return the warning for training from scratch.

    `wanted` means that base models were requested but are not installed.
    """
    name = f"{config.family}-{config.audio.sample_rate // 1000}k{'' if config.synthesizer.has_f0 else '-nof0'}"
    if not wanted or config.family == "lite":
        return Message(
            "The voice is trained from scratch, without base models. Without several hours of recordings, the "
            "result will "
            "be unusable."
        )
    return Message(
        "No base models are installed for {family} at {rate}k, so the voice is trained from scratch. Without "
        "several hours of recordings, the result will "
        "be unusable. {remedy}",
        family=config.family, rate=config.audio.sample_rate // 1000, remedy=how_to_get(name),
    )  # fmt: skip


def _file(folder: Path, name: str) -> Path | None:
    return next((path for suffix in VOICE_SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def _read_generator(path: Path, config: FamilyConfig) -> Weights:
    """The weights of a base generator. Raises CheckpointError if its family, rate or shapes differ."""
    weights = read_weights(path)
    wanted = Kind(config.family, config.audio.sample_rate, config.synthesizer.has_f0)
    found = kind_of(weights, str(path))
    if found != wanted:
        raise CheckpointError(
            "{path} is a base generator for {found}, but this training run needs one for {wanted}. `python -m "
            "lib.assets list` shows the available downloads; `--no-base` trains without base models.",
            path=path, found=found.message, wanted=wanted.message,
        )  # fmt: skip
    check_network(weights, config.synthesizer, str(path), posterior=True)
    return weights


def _read_discriminator(path: Path, config: FamilyConfig) -> Weights:
    """The weights of a base discriminator. Raises CheckpointError if its family or shapes differ."""
    weights = read_weights(path)
    found = len({key.split(".")[1] for key in weights if key.startswith("discriminators.")})
    wanted = config.discriminator.count  # v1 and v2 differ in the periods
    if found != wanted:
        raise CheckpointError(
            "{path} is not a base discriminator of the family {family}: it has {found} sub-discriminators instead of "
            "{wanted}. `python -m lib.assets list` shows the available downloads; `--no-base` trains without base "
            "models.",
            path=path, family=config.family, found=found, wanted=wanted,
        )  # fmt: skip
    with meta_device():
        network = build_networks(config).discriminator
    check_shapes(shapes_of(network), weights, str(path))
    check_finite(weights, str(path))
    return weights
