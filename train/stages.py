"""The stages prepare and index within an experiment: skipped when done and nothing they were made from changed."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.config import FamilyConfig
from lib.index import FeatureIndex, index_names
from lib.progress import Progress, no_progress
from train.experiment import Experiment, fingerprint
from train.options import IndexOptions, PrepareOptions
from train.preprocess import PrepareReport, prepare

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexReport:
    """The index of a voice."""

    path: Path
    vectors: int
    skipped: bool


def prepare_stage(
    experiment: Experiment,
    data: Path,
    config: FamilyConfig,
    options: PrepareOptions,
    progress: Progress = no_progress,
) -> PrepareReport | None:
    """Cut the recordings in `data` into clips; None if that was done from the same recordings and options."""
    if experiment.config_file.is_file():
        experiment.create(config)  # compares, so that a wrong family or rate is told before anything is made
    made_from = fingerprint(_listing(data), config.audio.sample_rate, options.slice_seconds)
    if experiment.stage("prepare").get("made_from") == made_from and any(experiment.wavs_16k.glob("*.wav")):
        logger.info("prepare: nothing changed, %s is kept", experiment.gt_wavs)
        return None
    experiment.claim([experiment.gt_wavs, experiment.wavs_16k])
    report = prepare(data, experiment.gt_wavs, experiment.wavs_16k, config.audio.sample_rate, options, progress)
    experiment.create(config)
    experiment.record_stage("prepare", made_from=made_from, clips=report.clips, seconds=round(report.seconds, 3))
    return report


def _listing(data: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of every file that prepare may read."""
    files = sorted(path for path in data.iterdir() if path.is_file()) if data.is_dir() else [data]
    stats = [(path.name, path.stat()) for path in files if path.exists()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def index_stage(experiment: Experiment, options: IndexOptions, progress: Progress = no_progress) -> IndexReport:
    """Build the two index files from the content features of all clips."""
    config = experiment.config()
    clips = experiment.clips()
    made_from = fingerprint(
        experiment.stage("extract").get("made_from"), options.seed, [clip.name for clip in clips],
        *([options.most_vectors] if options.most_vectors else []),
    )  # fmt: skip
    known = experiment.stage("index")
    path = experiment.folder / known.get("file", "")
    if known.get("made_from") == made_from and path.is_file():
        return IndexReport(path, known["vectors"], skipped=True)
    progress(0, 1, "index")
    index = FeatureIndex.build((np.load(clip.content) for clip in clips), options.seed, options.most_vectors)
    empty, full = index_names(experiment.name, config.family, index.n_cells)
    index.save_empty(experiment.folder / empty)
    index.save(experiment.folder / full)
    if path.is_file() and path.name != full:
        path.unlink()  # our own, made from other features
        path.with_name(path.name.replace("added_", "trained_", 1)).unlink(missing_ok=True)
    experiment.record_stage("index", made_from=made_from, file=full, vectors=len(index))
    progress(1, 1, "index")
    return IndexReport(experiment.folder / full, len(index), skipped=False)
