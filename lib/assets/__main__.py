"""Downloads and verifies weights: python -m lib.assets list | verify | download NAME..."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro
from pydantic import BaseModel, Field
from tyro.conf import Positional

from lib import assets
from lib.assets import LICENCE, PROGRAM, REPOSITORY, choose, download, how_to_get, path_of, state_of
from lib.errors import RevoiceError
from lib.option_help import REGISTRY
from lib.run_main import run_main
from lib.terminal import FAILED, INTERRUPTED, parse_arguments


class List(BaseModel, frozen=True):
    """List the available weights, whether they are installed, and what needs them."""


class Verify(BaseModel, frozen=True):
    """Verify the SHA-256 of installed weights."""

    names: Positional[tuple[str, ...]] = Field(default=(), description="names from `list` (default: all installed)")


class Download(BaseModel, frozen=True):
    """Download weights from the Hugging Face Hub and verify them; set HF_ENDPOINT to use a mirror."""

    names: Positional[tuple[str, ...]] = Field(description="names from `list`")


Command = List | Verify | Download


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    try:
        return _run(_parse(args))
    except KeyboardInterrupt:
        print("Stopped. Run the same command to resume.", file=sys.stderr)
        return INTERRUPTED
    except RevoiceError as error:
        print(error, file=sys.stderr)
        return FAILED


def _parse(args: Sequence[str] | None) -> Command:
    """Parse the command line. A usage error is printed as one sentence and ends the program."""
    commands: dict[str, Callable[..., Any]] = {"list": List, "verify": Verify, "download": Download}
    chosen: Command = parse_arguments(
        lambda: tyro.extras.subcommand_cli_from_dict(commands, prog=PROGRAM, args=args, registry=REGISTRY), PROGRAM
    )
    return chosen


def _run(command: Command) -> int:
    if isinstance(command, List):
        return _list()
    if isinstance(command, Verify):
        return _verify(command.names)
    for path in download(command.names, progress=_print_progress):
        print(path)
    return 0


def _print_progress(done: int, total: int, what: str) -> None:
    if done < total:
        print(f"{what} ({done + 1} of {total})", file=sys.stderr)


def _list() -> int:
    print(f"From {REPOSITORY} on the Hugging Face Hub (licence: {LICENCE}), into pretrained/:")
    for asset in assets.MANIFEST:
        here = "installed" if path_of(asset).is_file() else "missing"
        size = "" if asset.size is None else f"  {asset.size:,} bytes"
        print(f"{asset.name:<15} {here:<9} {asset.target:<36} {asset.sha256[:12]}{size}  {asset.needed_by}")
    for name, parts in assets.SETS.items():
        print(f"{name:<15} {'set of':<9} {', '.join(parts)}")
    print(how_to_get("NAME"))
    return 0


def _verify(names: Sequence[str]) -> int:
    """Print one line per file. The exit status is FAILED if a named file is not the published one."""
    states = {asset: state_of(asset) for asset in (choose(names) if names else assets.MANIFEST)}
    for asset, state in states.items():
        if names or state != "missing":
            print(f"{state:<10} {path_of(asset)}")
    if not names and set(states.values()) == {"missing"}:
        print(f"None of them is installed. {how_to_get('NAME')}")
    wrong = {"different", "missing"} if names else {"different"}
    return FAILED if wrong & set(states.values()) else 0


if __name__ == "__main__":
    sys.exit(run_main(main))
