"""Writes the trained networks as pretrained/lite/{encoder,G,D}.safetensors."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lib.content.lite import CODE_OF, WEIGHTS_FILE, quantized
from lib.files import replacing
from lib.models.lite_encoder import LiteEncoder
from lib.models.lite_synthesizer import LiteSynthesizer
from lib.paths import PRETRAINED
from recipes.pretrain_lite.features import FOLDER, lite_config, whisper_weights
from recipes.pretrain_lite.options import ExportOptions
from recipes.pretrain_lite.predict import Predictor

COMMAND = "python -m recipes.pretrain_lite export"


def export(options: ExportOptions, folder: Path = FOLDER, target: Path = PRETRAINED / "lite") -> str:
    """Write the three files; every speaker embedding is the mean over all training speakers."""
    trained = Predictor(folder)
    whisper = {f"whisper.{name}": value for name, value in whisper_weights(options.whisper).items()}
    encoder = whisper | {f"bottleneck.{name}": value for name, value in trained.weights["bottleneck"].items()}
    LiteEncoder().load_state_dict(encoder)  # strictly
    write_encoder(target / WEIGHTS_FILE.name, encoder)
    vocoder = torch.load(folder / "vocoder.pt", weights_only=True)
    network = LiteSynthesizer(lite_config())
    network.enc_p.load_state_dict(trained.weights["prior"])
    network.dec.load_state_dict(vocoder["vocoder"])
    with torch.no_grad():
        network.emb_g.weight[:] = trained.weights["speakers"]["weight"].mean(0)
    metadata = {"readers": str(len(trained.speakers)), "vocoder_steps": str(vocoder["step"]), "command": COMMAND}
    for letter, weights in (("G", network.state_dict()), ("D", vocoder["discriminator"])):
        _write(target / f"{letter}.safetensors", {name: value.half() for name, value in weights.items()}, metadata)
    return f"{target}: encoder, G and D"


def write_encoder(path: Path, weights: dict[str, Tensor], code_of: str | None = None) -> None:
    """Write the quantised weights of a LiteEncoder.

    `code_of` is the SHA-256 of the encoder whose code it reproduces, if any.
    """
    _write(path, quantized(weights), {"content_encoder": "lite"} | ({CODE_OF: code_of} if code_of else {}))


def _write(path: Path, weights: dict[str, Tensor], metadata: dict[str, str]) -> None:
    with replacing(path) as temporary:
        save_file({name: value.contiguous() for name, value in weights.items()}, temporary, metadata)
