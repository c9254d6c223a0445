"""A short run of the fuzzer: the corpora as they are, and changes of them. The same inputs each time."""

from pathlib import Path

import pytest

from tests.fuzz.mutations import mutated
from tests.fuzz.targets import CORPUS, TARGETS
from tests.work import processor_limit

RUNS = {  # of the fast ones; of others 25
    "json": 500, "curve": 200, "index_name": 500, "placeholders": 200, "index": 150, "script": 300, "preset": 150,
    "experiment": 50, "options": 300, "request": 300,
}  # fmt: skip


def test_every_target_has_a_corpus() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(sizes) < 300_000


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_corpora_and_changes_of_them_are_read_or_refused(tmp_path: Path, name: str) -> None:
    corpus = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    with processor_limit(120):
        for data in corpus:
            TARGETS[name](data, tmp_path)
        for seed in range(RUNS.get(name, 25)):
            TARGETS[name](mutated(corpus, seed), tmp_path)


@pytest.mark.parametrize(
    "name", ["pth", "safetensors", "index", "archive", "json", "curve", "audio", "script", "preset", "voice_texts"]
)
def test_targets_read_what_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Else a target that refuses everything would find nothing."""
    monkeypatch.setattr("tests.fuzz.targets._typed_errors", lambda: pytest.MonkeyPatch.context())
    TARGETS[name](next((CORPUS / name).glob("good*")).read_bytes(), tmp_path)
