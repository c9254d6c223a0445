"""Self-attention with learned relative positions inside a window (Shaw et al. 2018, as used in VITS).

Spec: synthesizer, "MHSA with relative positions". Attribute names are state-dict keys of the ecosystem.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WINDOW = 10  # frames to each side that have a relative position of their own
MASKED_SCORE = -1e4  # not -inf: a wholly masked row then is uniform instead of NaN, as in the reference


def band_to_square(band: Tensor) -> Tensor:
    """Place row i of a band on the diagonal: [..., F, 2w + 1] -> [..., F, F], entry (i, j) = band[i, j - i + w].

    Entries further than w from the diagonal are 0. Each row is padded to F + 2w + 1 columns and the flat buffer is
    read again with rows one shorter, which moves row i by i columns to the right:

        a b c . . .         a b c . .
        d e f . . .   ->    . d e f .      and the columns w .. w + F are kept
        g h i . . .         . . g h i
    """
    *rest, frames, width = band.shape
    window = width // 2
    columns = frames + 2 * window
    flat = F.pad(band, (0, frames)).reshape(*rest, frames * (columns + 1))
    return flat[..., : frames * columns].reshape(*rest, frames, columns)[..., window : window + frames]


def square_to_band(square: Tensor, window: int) -> Tensor:
    """The inverse reading: [..., F, F] -> [..., F, 2w + 1], entry (i, r) = square[i, i + r - w], 0 outside."""
    *rest, frames, _ = square.shape
    columns = frames + 2 * window
    flat = F.pad(square, (window, window)).reshape(*rest, frames * columns)
    return F.pad(flat, (0, frames)).reshape(*rest, frames, columns + 1)[..., : 2 * window + 1]


class RelativeAttention(nn.Module):
    """Multi-head self-attention; the relative tables are shared by all heads."""

    def __init__(self, channels: int, n_heads: int, p_dropout: float = 0.0) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.head_width = channels // n_heads
        self.emb_rel_k, self.emb_rel_v = (
            nn.Parameter(nn.init.normal_(torch.empty(1, 2 * WINDOW + 1, self.head_width), 0.0, self.head_width**-0.5))
            for _ in range(2)
        )
        self.conv_q = nn.Conv1d(channels, channels, 1)
        self.conv_k = nn.Conv1d(channels, channels, 1)
        self.conv_v = nn.Conv1d(channels, channels, 1)
        self.conv_o = nn.Conv1d(channels, channels, 1)
        self.dropout = nn.Dropout(p_dropout)
        for conv in (self.conv_q, self.conv_k, self.conv_v):
            nn.init.xavier_uniform_(conv.weight)

    def _split(self, x: Tensor) -> Tensor:
        """[B, C, F] -> [B, heads, F, C / heads]; head 0 is the first channels."""
        return x.reshape(x.shape[0], self.n_heads, self.head_width, x.shape[2]).transpose(2, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, C, F], frame mask [B, 1, F] of 0 and 1 -> [B, C, F]."""
        query = self._split(self.conv_q(x)) / math.sqrt(self.head_width)
        key, value = self._split(self.conv_k(x)), self._split(self.conv_v(x))
        scores = query @ key.transpose(2, 3)  # [B, heads, F, F]
        scores = scores + band_to_square(query @ self.emb_rel_k.transpose(1, 2))
        allowed = mask.unsqueeze(3) * mask.unsqueeze(2)  # [B, 1, F, F]
        share = self.dropout(scores.masked_fill(allowed == 0, MASKED_SCORE).softmax(-1))
        out = share @ value + square_to_band(share, WINDOW) @ self.emb_rel_v
        return self.conv_o(out.transpose(2, 3).flatten(1, 2))  # type: ignore[no-any-return]
