"""Checks for cancellation between the layers of networks, because one forward pass of a large one can take
seconds."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.modules.module import register_module_forward_pre_hook

from lib.progress import Progress, Repeated


@contextmanager
def between_layers(progress: Progress) -> Iterator[Progress]:
    """Yield a Progress whose last report is repeated between the layers of all networks that this thread runs."""
    repeated, thread = Repeated(progress), threading.get_ident()

    def check(*_: object) -> None:
        if threading.get_ident() == thread:
            repeated.check()

    handle = register_module_forward_pre_hook(check)
    try:
        yield repeated
    finally:
        handle.remove()
