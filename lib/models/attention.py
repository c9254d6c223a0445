"""Self-attention with learned relative positions inside a window (Shaw et al. 2018, as used in VITS).

Attribute names are RVC's state-dict keys.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WINDOW = 10  # frames on either side that have an own relative position
BLOCK_FRAMES = 256  # rows of the score matrix computed at a time, except in training and in an ONNX file
MASKED_SCORE = -1e4  # not -inf: a wholly masked row then is uniform instead of NaN, as in the reference


def skew(band: Tensor) -> Tensor:
    """Place row i of a band at column i: [..., Q, 2w + 1] -> [..., Q, Q + 2w], entry (i, i + r) = band[i, r], else 0.

    Each row is padded to Q + 2w + 1 columns and the flat buffer is reinterpreted with rows one element shorter, which
    moves row i by i columns to the right:

        a b c . . .         a b c . .
        d e f . . .   ->    . d e f .
        g h i . . .         . . g h i
    """
    *rest, rows, width = band.shape
    columns = rows + width - 1
    flat = F.pad(band, (0, rows)).reshape(*rest, rows * (columns + 1))
    return flat[..., : rows * columns].reshape(*rest, rows, columns)


def unskew(wide: Tensor) -> Tensor:
    """Inverse of `skew`: [..., Q, Q + 2w] -> [..., Q, 2w + 1], entry (i, r) = wide[i, i + r]."""
    *rest, rows, columns = wide.shape
    flat = F.pad(wide.reshape(*rest, rows * columns), (0, rows))
    return flat.reshape(*rest, rows, columns + 1)[..., : columns - rows + 1]


class RelativeAttention(nn.Module):
    """Multi-head self-attention; all heads share the relative position tables."""

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
        training = torch.is_grad_enabled()
        exporting = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        size = x.shape[2] if training or exporting else BLOCK_FRAMES
        padding = mask if training or not bool(mask.all()) else None
        blocks = range(0, x.shape[2], size)
        out = torch.cat([self._attend(query[:, :, i : i + size], key, value, padding, i) for i in blocks], dim=2)
        return self.conv_o(out.transpose(2, 3).flatten(1, 2))  # type: ignore[no-any-return]

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, first: int) -> Tensor:
        """Attention of the frames from `first` on over all frames: queries [B, heads, Q, D] -> [B, heads, Q, D].

        Without a mask, all frames are attended to.
        """
        rows, frames = query.shape[2], key.shape[2]
        low, high = max(first - WINDOW, 0), min(first + rows + WINDOW, frames)  # frames inside the window of some row
        missing = (low - (first - WINDOW), first + rows + WINDOW - high)  # of it before the first and after the last
        scores = query @ key.transpose(2, 3)  # [B, heads, Q, F]
        near = skew(query @ self.emb_rel_k.transpose(1, 2))  # [B, heads, Q, Q + 2w]
        scores[..., low:high] += near[..., missing[0] : near.shape[3] - missing[1]]
        if mask is not None:
            allowed = mask[..., first : first + rows].unsqueeze(3) * mask.unsqueeze(2)  # [B, 1, Q, F]
            scores = scores.masked_fill(allowed == 0, MASKED_SCORE)
        share = self.dropout(scores.softmax(-1))
        taken: Tensor = share @ value + unskew(F.pad(share[..., low:high], missing)) @ self.emb_rel_v
        return taken
