"""The networks. The network of every voice model is a VoiceSynthesizer."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class VoiceConfig(Protocol):
    """The values of a synthesizer's configuration that a conversion needs."""

    @property
    def sample_rate(self) -> int:
        """Sample rate of the output in Hz."""
        ...

    @property
    def hop_length(self) -> int:
        """Output samples per frame of 10 ms."""
        ...

    @property
    def content_width(self) -> int:
        """Dimension of the content features."""
        ...

    @property
    def has_f0(self) -> bool:
        """Whether the network takes pitch bins and F0."""
        ...

    @property
    def n_speakers(self) -> int:
        """Number of rows of the speaker embedding."""
        ...


class VoiceSynthesizer(Protocol):
    """A network that computes audio from content features, F0 and a speaker."""

    @property
    def config(self) -> VoiceConfig:
        """The configuration of the network."""
        ...

    @property
    def supports_int8(self) -> bool:
        """Whether `cast` accepts int8 for the generator."""
        ...

    @property
    def n_bytes(self) -> int:
        """Size of the weights in bytes."""
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
        """Content [B, F, C] at 100 frames/s, lengths [B], speaker_id [B], pitch bins and F0 [B, F] -> audio [B, 1, T].

        `generator`, a CPU torch.Generator, makes the noise reproducible; `temperature` scales it (0 = none). `keep` is
        the half-open range (start, stop) of frames whose samples are returned; by default all frames are.
        """
        ...

    def fold_weight_norm(self) -> "VoiceSynthesizer":
        """Fold weight norm into the weights, which speeds up inference. Returns self."""
        ...

    def cast(self, generator: "torch.dtype", prior: "torch.dtype") -> "VoiceSynthesizer":
        """Return a copy of this float32 network with one dtype for the generator and another for prior and flow."""
        ...

    def to(self, device: "torch.device", /) -> "VoiceSynthesizer":
        """Move all weights to a device. Returns self."""
        ...
