"""Regenerates docs/LANGUAGE/options.md after an option or its strings have changed: python -m web.manual."""

import argparse
import sys

from lib.run_main import run_main
from web.manual.options import write_option_pages


def main() -> None:
    """Parse the command line, which has no options but --help, and write the pages."""
    argparse.ArgumentParser(
        prog="python -m web.manual", description="Regenerate docs/LANGUAGE/options.md."
    ).parse_args()
    write_option_pages()


if __name__ == "__main__":
    sys.exit(run_main(main))
