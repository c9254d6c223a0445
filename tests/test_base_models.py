"""Base models are found in every known place and match their names."""

from pathlib import Path

import pytest
import torch

from lib.config import FamilyConfig
from lib.errors import CheckpointError, ConfigError, MissingFileError
from lib.voice.weights import rvc_state_dict
from tests.tiny_files import tiny_family, tiny_network
from train.base_models import base_names, chosen_base, find_base, pair_of
from train.networks import build_networks
from train.options import FitOptions


def put(folder: Path, config: FamilyConfig, names: tuple[str, str] | None = None) -> None:
    """Write base models as they are published: halves, and only the entry `model`."""
    folder.mkdir(parents=True, exist_ok=True)
    networks = (tiny_network(config.synthesizer, posterior=True), build_networks(config).discriminator)
    for name, network in zip(names or base_names(config), networks, strict=True):
        halves = {key: value.half() for key, value in rvc_state_dict(network).items()}
        torch.save({"model": halves}, folder / f"{name}.pth")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "folder"),
    [
        ("v1", "pretrained/v1"), ("v1", "pretrained"), ("v1", "assets/pretrained"),
        ("v2", "pretrained/v2"), ("v2", "pretrained_v2"), ("v2", "assets/pretrained_v2"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("has_f0", [True, False])
def test_all_known_places(tmp_path: Path, family: str, folder: str, has_f0: bool) -> None:
    config = tiny_family(family, "48k", has_f0=has_f0)  # type: ignore[arg-type]
    assert find_base(config, tmp_path) is None
    put(tmp_path / folder, config)
    assert (tmp_path / folder / ("f0G48k.pth" if has_f0 else "G48k.pth")).is_file()
    base = find_base(config, tmp_path)
    assert base is not None and base.folder == tmp_path / folder
    assert "enc_q.pre.weight" in base.generator and "discriminators.0.conv_post.bias" in base.discriminator
    assert find_base(tiny_family(family, "40k", has_f0=has_f0), tmp_path) is None  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            tiny_family("v2", "32k"),
            "is a base generator for v2 at 32k with F0, but this training run needs one for v2 at 40k with F0",
        ),
        (tiny_family("v1", "40k"), "is a base generator for v1 at 40k with F0, but"),
        (tiny_family("v2", "40k", has_f0=False), "is a base generator for v2 at 40k without F0, but"),
        (tiny_family("v2", "40k", n_speakers=2), "does not match this network"),
    ],
)
def test_a_generator_of_another_kind_is_refused_before_anything_runs(
    tmp_path: Path, found: FamilyConfig, message: str
) -> None:
    put(tmp_path / "pretrained_v2", found, ("f0G40k", "f0D40k"))
    with pytest.raises(CheckpointError, match=message):
        find_base(tiny_family("v2", "40k"), tmp_path)


@pytest.mark.slow
def test_a_discriminator_of_another_family_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "pretrained_v2", tiny_family("v2", "40k"))
    put(tmp_path / "v1", tiny_family("v1", "40k"))
    (tmp_path / "v1" / "f0D40k.pth").replace(tmp_path / "pretrained_v2" / "f0D40k.pth")
    with pytest.raises(CheckpointError, match="of the family v2: it has 7 sub-discriminators instead of 9"):
        find_base(tiny_family("v2", "40k"), tmp_path)


@pytest.mark.slow
def test_half_a_pair_is_reported(tmp_path: Path) -> None:
    put(tmp_path / "pretrained_v2", tiny_family("v2", "40k"))
    (tmp_path / "pretrained_v2" / "f0D40k.pth").unlink()
    with pytest.raises(MissingFileError, match=r"f0D40k\.pth.*Only the other file of the G/D pair was found"):
        find_base(tiny_family("v2", "40k"), tmp_path)


@pytest.mark.slow
def test_base_models_are_chosen_by_name_whatever_their_files_are_called(tmp_path: Path) -> None:
    config = tiny_family("v2", "40k")
    put(tmp_path / "pretrained" / "bases" / "titan", config, ("f0Titan40kG", "f0Titan40kD"))
    options = FitOptions(base_model="titan")
    base = chosen_base(config, options, "contentvec", tmp_path)
    assert base is not None and base.folder.name == "titan"
    assert "enc_q.pre.weight" in base.generator and "discriminators.0.conv_post.bias" in base.discriminator
    assert chosen_base(config, FitOptions(), "contentvec", tmp_path) is None
    with pytest.raises(CheckpointError, match="for v2 at 40k with F0, but this training run needs one for v2 at 32k"):
        chosen_base(tiny_family("v2", "32k"), options, "contentvec", tmp_path)
    with pytest.raises(MissingFileError, match="has 0 and 0"):
        chosen_base(config, FitOptions(base_model="other"), "contentvec", tmp_path)
    with pytest.raises(ConfigError, match="cannot be used as a base model name"):
        chosen_base(config, FitOptions(base_model="../titan"), "contentvec", tmp_path)


@pytest.mark.slow
def test_base_models_are_chosen_by_path_both_or_none(tmp_path: Path) -> None:
    config = tiny_family("v2", "40k")
    put(tmp_path, config, ("my g", "my d"))
    generator, discriminator = tmp_path / "my g.pth", tmp_path / "my d.pth"
    options = FitOptions(base_generator=generator, base_discriminator=discriminator)
    assert chosen_base(config, options, "contentvec", tmp_path) is not None
    with pytest.raises(ConfigError, match="Specify both"):
        chosen_base(config, FitOptions(base_generator=generator), "contentvec", tmp_path)
    swapped = FitOptions(base_generator=discriminator, base_discriminator=generator)
    with pytest.raises(CheckpointError, match=r"my d\.pth"):
        chosen_base(config, swapped, "contentvec", tmp_path)
    absent = FitOptions(base_generator=generator, base_discriminator=tmp_path / "none.pth")
    with pytest.raises(MissingFileError, match=r"none\.pth"):
        chosen_base(config, absent, "contentvec", tmp_path)


@pytest.mark.slow
def test_a_base_model_of_another_encoder_is_refused(tmp_path: Path) -> None:
    config = tiny_family("v2", "40k")
    folder = tmp_path / "pretrained" / "bases" / "korean"
    put(folder, config)
    for path in folder.glob("*.pth"):
        torch.save(torch.load(path, weights_only=True) | {"embedder_model": "korean-hubert-base"}, path)
    options = FitOptions(base_model="korean")
    assert chosen_base(config, options, "korean-hubert-base", tmp_path) is not None
    with pytest.raises(CheckpointError, match="trained with the content encoder 'korean-hubert-base'"):
        chosen_base(config, options, "contentvec", tmp_path)


@pytest.mark.slow
def test_given_files_are_told_apart_by_their_tensors(tmp_path: Path) -> None:
    config = tiny_family("v2", "40k")
    put(tmp_path, config, ("one", "two"))
    one, two = tmp_path / "one.pth", tmp_path / "two.pth"
    assert pair_of([two, one]) == (one, two) == pair_of([one, two])
    patterns = "Files given: 1; discriminators among them: 0", "Files given: 2; discriminators among them: 2"
    for wrong, pattern in zip(([one], [two, two]), patterns, strict=True):
        with pytest.raises(ConfigError, match=pattern):
            pair_of(wrong)
    (tmp_path / "damaged.pth").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"damaged\.pth"):
        pair_of([one, tmp_path / "damaged.pth"])
