"""The networks. Every class that a voice model can hold is a VoiceSynthesizer."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class VoiceConfig(Protocol):
    """What a conversion reads of a synthesizer's configuration."""

    @property
    def sample_rate(self) -> int:
        """Of the output, in Hz."""
        ...

    @property
    def hop_length(self) -> int:
        """Output samples per frame of 10 ms."""
        ...

    @property
    def content_width(self) -> int:
        """Content features per frame."""
        ...

    @property
    def has_f0(self) -> bool:
        """Whether the network takes pitch bins and F0."""
        ...

    @property
    def n_speakers(self) -> int:
        """Rows of the speaker embedding."""
        ...


class VoiceSynthesizer(Protocol):
    """A network that computes audio from content features, F0 and a speaker."""

    @property
    def config(self) -> VoiceConfig:
        """Its configuration."""
        ...

    @property
    def supports_int8(self) -> bool:
        """Whether `cast` accepts int8 for the generator."""
        ...

    @property
    def n_bytes(self) -> int:
        """Memory of all weights."""
        ...

    def infer(
        self,
        content: "Tensor",
        lengths: "Tensor",
        speaker_id: "Tensor",
        pitch_bins: "Tensor | None" = None,
        f0: "Tensor | None" = None,
        generator: "torch.Generator | None" = None,
        temperature: float = 1.0,
        keep: tuple[int, int] | None = None,
    ) -> "Tensor":
        """Content [B, F, C] at 100 frames/s, lengths [B], speaker_id [B], pitch bins and F0 [B, F] -> [B, 1, T].

        `generator`, a CPU torch.Generator, makes the noise reproducible, `temperature` scales it (0 = none). `keep` is
        (first, last + 1) of the frames whose samples are returned; without it all frames are.
        """
        ...

    def fold_weight_norm(self) -> "VoiceSynthesizer":
        """Replace each weight-normed weight by its value, which is faster. Returns self."""
        ...

    def cast(self, generator: "torch.dtype", prior: "torch.dtype") -> "VoiceSynthesizer":
        """A copy of this float32 network whose generator computes in one dtype and whose prior and flow in another."""
        ...

    def to(self, device: "torch.device", /) -> "VoiceSynthesizer":
        """Move all weights to a device. Returns self."""
        ...
