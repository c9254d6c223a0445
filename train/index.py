"""The index stage: builds the two index files of an experiment from the content features of all clips."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.arrays import array_shape, read_array
from lib.files import replacing
from lib.index import FeatureIndex, index_names
from lib.messages import Message
from lib.progress import Progress, no_progress
from lib.voice.library import SPEAKER_INDEXES, standard_experiment
from train.dataset import read_content
from train.experiment import Clip, Experiment
from train.options import IndexOptions
from train.pipeline import fingerprint, is_done, record
from train.speakers import Speaker, read_table

TOTAL_FEATURES = "total_fea.npy"  # as RVC names it


@dataclass(frozen=True)
class IndexReport:
    """The index that was built, or that already exists."""

    path: Path
    vectors: int
    skipped: bool


def index_stage(experiment: Experiment, options: IndexOptions, progress: Progress = no_progress) -> IndexReport:
    """Build the two index files from the content features of all clips."""
    config = experiment.config()
    clips = experiment.clips()
    content = experiment.content_folder(config.synthesizer.content_width)
    table = read_table(experiment)
    speakers = table.speakers() if table is not None else []
    made_from = fingerprint(
        experiment.stage("extract").get("made_from"), options.seed, [clip.name for clip in clips],
        *([options.most_vectors] if options.most_vectors else []), *([speaker.number for speaker in speakers]),
    )  # fmt: skip
    known = experiment.stage("index")
    path = experiment.folder / known.get("file", "")
    if "file" in known and is_done(experiment, "index", made_from, path):
        if options.total_fea:
            write_total_features([clip.content for clip in clips], experiment.folder / TOTAL_FEATURES)
        return IndexReport(path, known["vectors"], skipped=True)
    progress(0, 1, Message("index"))
    index = FeatureIndex.build(map(read_content, clips), options.seed, options.most_vectors)
    if options.total_fea:
        write_total_features([clip.content for clip in clips], experiment.folder / TOTAL_FEATURES)
    empty, full = index_names(experiment.name, config.family, index.n_cells)
    index.save_empty(experiment.folder / empty)
    index.save(experiment.folder / full)
    facts: dict[str, Any] = {"made_from": made_from, "file": full, "vectors": len(index)}
    if table is not None and speakers:
        facts[SPEAKER_INDEXES] = _index_speakers(experiment, table.with_speakers(clips), speakers, options)
    record(experiment, "index", **facts)
    _delete_older(experiment, path.name, {empty, full}, is_ours=experiment.is_owned(content))
    progress(1, 1, Message("index"))
    return IndexReport(experiment.folder / full, len(index), skipped=False)


def write_total_features(paths: Sequence[Path], target: Path) -> None:
    """Write arrays (N, C) of content features into one float32 `.npy` file, one array at a time, to save memory."""
    shapes = [array_shape(path) for path in paths]
    widths, rows = {shape[1] for shape in shapes}, sum(shape[0] for shape in shapes)
    with replacing(target) as temporary:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, *widths)}
        with temporary.open("wb") as file:  # not memory-mapped: a full disk would end the process
            np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
            for path in paths:
                file.write(read_array(path).astype("<f4").tobytes())


def _index_speakers(
    experiment: Experiment, clips: Sequence[Clip], speakers: Sequence[Speaker], options: IndexOptions
) -> dict[str, str]:
    """Build an index for each speaker; return their paths below the experiment's folder, keyed by speaker number."""
    paths = {}
    for speaker in speakers:
        own = (read_content(clip) for clip in clips if clip.speaker_id == speaker.number)
        paths[str(speaker.number)] = f"{SPEAKER_INDEXES}/{speaker.number}.index"
        index = FeatureIndex.build(own, options.seed, options.most_vectors)
        index.save(experiment.folder / paths[str(speaker.number)])
    return paths


def _delete_older(experiment: Experiment, recorded: str, new: set[str], *, is_ours: bool) -> None:
    """Delete the previously recorded pair of indexes, built from features that no longer exist.

    If the features of the experiment are ours, so are all other indexes with names in RVC's form for it.
    """
    before = {recorded, recorded.replace("added_", "trained_", 1)}
    for path in experiment.folder.glob("*.index"):
        is_older = path.name in before or (is_ours and standard_experiment(path) == experiment.name)
        if is_older and path.name not in new:
            path.unlink()
