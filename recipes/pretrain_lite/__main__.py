"""Trains pretrained/lite/: python -m recipes.pretrain_lite speech | features | acoustic | vocoder | export | noise."""

import logging
import sys
import time
from pathlib import Path
from typing import Any

import tyro

from lib.errors import RevoiceError
from lib.progress import Cancelled, Progress
from lib.run_main import run_main
from recipes.pretrain_lite.options import (
    AcousticOptions,
    ExportOptions,
    FeatureOptions,
    NoiseOptions,
    SpeechOptions,
    VocoderOptions,
)

LINE_SECONDS = 10.0  # between two lines of progress


def _show_progress() -> Progress:
    """A Progress that prints a line every LINE_SECONDS."""
    last = time.monotonic()

    def show(done: int, total: int, what: str) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > LINE_SECONDS:
            last = time.monotonic()
            print(f"{what}: {done} of {total}", flush=True)

    return show


def _run(options: Any) -> Path | str:
    from recipes.pretrain_lite import acoustic, export, features, noise, speech, vocoder

    if isinstance(options, SpeechOptions):
        return speech.make_speech(options, progress=_show_progress())
    if isinstance(options, FeatureOptions):
        return features.make_features(options, progress=_show_progress())
    if isinstance(options, AcousticOptions):
        return acoustic.train_acoustic(options, progress=_show_progress())
    if isinstance(options, VocoderOptions):
        return vocoder.train_vocoder(options, progress=_show_progress())
    if isinstance(options, NoiseOptions):
        return noise.train_noise(options, progress=_show_progress())
    return export.export(options)


def main() -> int:
    """Parse the command line and run one command; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    commands: dict[str, Any] = {
        "speech": SpeechOptions,
        "features": FeatureOptions,
        "acoustic": AcousticOptions,
        "vocoder": VocoderOptions,
        "export": ExportOptions,
        "noise": NoiseOptions,
    }
    try:
        print(
            _run(
                tyro.extras.subcommand_cli_from_dict(
                    commands, prog="python -m recipes.pretrain_lite", description=__doc__
                )
            )
        )
    except RevoiceError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except (Cancelled, KeyboardInterrupt):
        print("Stopped. Run the same command to resume.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
