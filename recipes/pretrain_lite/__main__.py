"""What made pretrained/lite/: python -m recipes.pretrain_lite COMMAND.

corpus | encoder | evaluate | base-corpus | base | turn-base | demo
"""

import logging
import sys
import time
from pathlib import Path
from typing import Any

import tyro
from pydantic import BaseModel

from lib.errors import RevoiceError
from lib.progress import Cancelled, Progress
from recipes.pretrain_lite.options import (
    BaseCorpusOptions,
    BaseOptions,
    CorpusOptions,
    EncoderOptions,
    EvaluateOptions,
    TurnOptions,
)


class DemoOptions(BaseModel, frozen=True):
    """The demo recordings have nothing to choose."""


def _show_progress() -> Progress:
    """A Progress that prints a line now and then, so that a log of it stays readable."""
    last = time.monotonic()

    def show(done: int, total: int, what: str) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > 10:
            last = time.monotonic()
            print(f"{what}: {done} of {total}", flush=True)

    return show


def _run(options: Any) -> Path | str:
    from recipes.pretrain_lite import base, corpus, encoder, evaluate, recordings

    if isinstance(options, CorpusOptions):
        return corpus.make_corpus(options, progress=_show_progress())
    if isinstance(options, EncoderOptions):
        return encoder.train_encoder(options, progress=_show_progress())
    if isinstance(options, BaseCorpusOptions):
        return recordings.make_base_corpus(options, progress=_show_progress())
    if isinstance(options, BaseOptions):
        return base.train_base(options, progress=_show_progress())
    if isinstance(options, TurnOptions):
        return base.turn_base(options, progress=_show_progress())
    if isinstance(options, EvaluateOptions):
        return evaluate.evaluate(options)
    return recordings.make_demo()


def main() -> int:
    """Parse the command line and run one command; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    commands: dict[str, Any] = {
        "corpus": CorpusOptions,
        "encoder": EncoderOptions,
        "evaluate": EvaluateOptions,
        "base-corpus": BaseCorpusOptions,
        "base": BaseOptions,
        "turn-base": TurnOptions,
        "demo": DemoOptions,
    }
    try:
        print(_run(tyro.extras.subcommand_cli_from_dict(commands, description=__doc__)))
    except RevoiceError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except (Cancelled, KeyboardInterrupt):
        print("Stopped. The same command continues.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
