"""A megabyte of the worst input for every parser of outside text: work in proportion to its length, short errors."""

import signal
import sys
from multiprocessing import get_context

import pytest

from tests.worst_inputs import PARSERS, feed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="no limits of processor time"),
]


@pytest.mark.parametrize("name", PARSERS)
def test_a_megabyte_of_the_worst_input_is_parsed_or_refused_within_a_hard_limit(name: str) -> None:
    """The system ends the child that uses ten times the usual processor time; work that grows faster takes hours."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.worst_inputs"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=feed, args=(name, sender))
    process.start()
    sender.close()
    last = ""
    try:
        while True:
            last = receiver.recv()
    except EOFError:
        process.join()
    assert process.exitcode != -signal.SIGXCPU, f"{name} takes far too long for {last}"
    assert process.exitcode == 0 and last, f"{name} failed for {last}"
