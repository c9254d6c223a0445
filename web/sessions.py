"""Gradio sessions that compute component configurations lazily.

Gradio computes the configuration of every component for each session and keeps it: each API call takes 90 ms on the
event loop and half a megabyte of memory, for up to 10,000 sessions. Only Gradio's deep links read all of
them, and the server does not offer deep links (web/request_checks.py).
"""

from types import SimpleNamespace
from typing import Any

import gradio as gr
from gradio.state_holder import SessionState, StateHolder

MAX_SESSIONS = 2000  # that are remembered; the one that was used longest ago is dropped


class _Configurations(dict[int, dict[str, Any]]):
    """Configurations of components, by id; each is computed when it is first read."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self._config = config

    def __missing__(self, key: int) -> dict[str, Any]:
        self[key] = self._config.config_for_block(key, [], self._config.blocks[key])
        return self[key]


class Session(SessionState):  # type: ignore[misc]  # Gradio has no types
    """The state of one open page or one API call."""

    def __init__(self, blocks: gr.Blocks) -> None:
        super().__init__(SimpleNamespace(default_config=blocks.default_config, blocks=()))  # computes no configuration
        self.config_values = _Configurations(self.blocks_config)


class Sessions(StateHolder):  # type: ignore[misc]  # Gradio has no types
    """The sessions of a page, by their ids."""

    def __init__(self, blocks: gr.Blocks) -> None:
        super().__init__()
        self.set_blocks(blocks)

    def __getitem__(self, session_id: str) -> Session:
        if session_id not in self.session_data:
            self.session_data[session_id] = Session(self.blocks)
        session: Session = super().__getitem__(session_id)
        return session
