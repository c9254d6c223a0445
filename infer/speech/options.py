"""The options of speech synthesis, from which the command line and the web UI are generated.

Importing this module does not import torch.
"""

from typing import Literal

from pydantic import Field

from infer.options import ConvertOptions

MIN_SPEED, MAX_SPEED = 0.5, 2.0


class SpeechOptions(ConvertOptions, frozen=True):
    """Options of speech synthesis: those of the conversion, and those of the engine that synthesises the text."""

    engine: Literal["hibari", "edge"] = Field(
        "hibari",
        description="speech engine; hibari = offline, English only; edge = Microsoft's online service (many languages; "
        "your text is sent to Microsoft)",
    )
    edge_voice: str = Field(
        "en-US-AriaNeural",
        description="voice for the edge engine, which also determines the language, e.g. de-DE-KatjaNeural",
    )
    speed: float = Field(1.0, ge=MIN_SPEED, le=MAX_SPEED, description="speaking rate; 1 = the engine's default")
