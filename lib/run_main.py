"""Runs the main function of a command; imports nothing large, so that `--help` is quick."""

import os
import sys
from collections.abc import Callable

BROKEN_PIPE = 141  # exit status


def run_main(main: Callable[[], int | None]) -> int:
    """Run a command and return its exit status; it exits silently if the process reading its output has exited.

    Raises BrokenPipeError if a pipe other than standard output is broken.
    """
    try:
        try:
            return main() or 0
        finally:
            if sys.stdout is not None:  # None if it was closed
                sys.stdout.flush()  # at exit, Python would print the error
    except BrokenPipeError:
        try:
            sys.stdout.write("\n")
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
            return BROKEN_PIPE
        raise
