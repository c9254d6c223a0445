"""Metrics of individual conversions, their means, and 95% bootstrap confidence intervals over clips."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import numpy.typing as npt

from lib.typing import FloatArray

Doubles = npt.NDArray[np.float64]

FRAME = 320  # samples at 16 kHz, 20 ms
PAUSE_DB = -40.0  # frames this far below the loudest one are pauses
RESAMPLES, CONFIDENCE = 2000, 0.95


@dataclass(frozen=True)
class Figures:
    """The metrics of one conversion, or their means over several conversions of one clip; NaN if not available."""

    word_errors: float  # number of word errors
    to_voice: float  # mean cosine of speaker embeddings, to held-out recordings of the voice
    to_source: float  # and to the unconverted clip
    f0_correlation: float
    cents: float  # median error of F0
    voicing: float  # share of frames on which both are voiced or both are not
    pause_db: float  # level of the source's pauses relative to its speech
    clipped: float  # number of samples at full scale
    dc: float  # absolute mean of the samples


@dataclass(frozen=True)
class ClipFigures:
    """The metrics of one clip; `words` is the length of its reference transcript, 0 if it has none."""

    name: str
    words: int
    figures: Figures


@dataclass(frozen=True)
class Interval:
    """A metric and its 95% confidence interval; all NaN if no clip has the metric."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """One row of the table: a set of clips, converted in one way or not at all."""

    name: str
    clips: Sequence[ClipFigures]

    @property
    def words(self) -> int:
        """Number of words in all reference transcripts."""
        return sum(clip.words for clip in self.clips)

    def intervals(self) -> dict[str, Interval]:
        """Return each metric, keyed by name; `word_error_rate` replaces the number of word errors."""
        names = [field.name for field in fields(Figures)]
        table = np.array([list(asdict(clip.figures).values()) for clip in self.clips])  # [clips, figures]
        words = np.array([clip.words for clip in self.clips], np.float64)
        result = {"word_error_rate": bootstrap(table[:, 0], words)}
        ones = np.ones(len(words))
        return result | {name: bootstrap(table[:, i], ones) for i, name in enumerate(names) if i > 0}


def mean_figures(repeats: Sequence[Figures]) -> Figures:
    """Return the mean of each metric over the conversions for which it is available."""
    table = np.array([list(asdict(figures).values()) for figures in repeats])  # [repeats, figures]
    return Figures(
        *(float(column[~np.isnan(column)].mean()) if any(column == column) else np.nan for column in table.T)
    )


def bootstrap(values: Doubles, weights: Doubles, seed: int = 0) -> Interval:
    """Return sum(values) / sum(weights) over clips (N,), and the bootstrap confidence interval of that ratio.

    Clips whose value is NaN or whose weight is 0 are left out.
    """
    known = ~np.isnan(values) & (weights > 0)
    values, weights = values[known], weights[known]
    if len(values) == 0:
        return Interval(np.nan, np.nan, np.nan)
    drawn = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    ratios = values[drawn].sum(1) / weights[drawn].sum(1)
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(values.sum() / weights.sum()), float(low), float(high))


def pause_level(source: FloatArray, output: FloatArray) -> float:
    """Return the level of the output in the source's pauses relative to the other frames, in dB.

    Both signals are (T,) at 16 kHz; the longer one is trimmed. NaN if the source has no pauses or consists only of
    them.
    """
    frames = min(len(source), len(output)) // FRAME
    power, level = (np.mean(audio[: frames * FRAME].reshape(-1, FRAME) ** 2, axis=1) for audio in (source, output))
    pauses = power < power.max(initial=0.0) * 10 ** (PAUSE_DB / 10)
    if pauses.all() or not pauses.any():
        return float("nan")
    return float(10 * np.log10((level[pauses].mean() + 1e-12) / (level[~pauses].mean() + 1e-12)))
