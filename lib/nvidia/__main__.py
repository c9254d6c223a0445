"""Prints the build of PyTorch for this machine (cu130, cu126 or cpu), for the start scripts: python -m lib.nvidia."""

import argparse
import sys

from lib.nvidia import BUILDS, CPU, advise, find_cards, suitable_build


def main() -> int:
    """Print the name of the build, and problems with cards or drivers on stderr."""
    description = "Print the PyTorch build for this machine: cu130, cu126 or cpu."
    argparse.ArgumentParser(prog="python -m lib.nvidia", description=description).parse_args()
    cards = find_cards()
    build = suitable_build(cards)
    print(build)
    for advice in advise(cards, build):
        print(f"  {advice}", file=sys.stderr)
    if cards and build not in (BUILDS[0].name, CPU):
        print(f"  Taking PyTorch's build {build}, which supports this GPU.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
