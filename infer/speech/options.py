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
        description="hibari = offline, English; edge = Microsoft's online service, to which the text is sent, in many "
        "languages",
    )
    edge_voice: str = Field(
        "en-US-AriaNeural",
        description="voice of the engine edge, which also determines the language, such as de-DE-KatjaNeural",
    )
    speed: float = Field(1.0, ge=MIN_SPEED, le=MAX_SPEED, description="speed of speech; 1 = the engine's own")
