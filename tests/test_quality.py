"""recipes.quality: words, clips, figures, table and page, without Whisper and the speaker encoder."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from infer.options import ConvertOptions
from lib.audio.encode import save_audio
from lib.audio.filters import resample
from lib.config import LiteConfig
from lib.errors import AudioError, ConfigError, MissingFileError
from lib.models.lite_synthesizer import LiteSynthesizer
from lib.pitch import PitchExtractor, load_pitch_extractor
from lib.typing import FloatArray
from recipes.pretrain_lite.recordings import TEST, VALIDATION
from recipes.quality import page
from recipes.quality.__main__ import expand, make_examples, parse, read_other_readers
from recipes.quality.clips import Clip, add_noise, draw, noisy, read_files, read_readers, read_sets
from recipes.quality.evaluation import Evaluator, count_clipped, measure_all, median_f0
from recipes.quality.figures import ClipFigures, Figures, Interval, Line, bootstrap, mean_figures, pause_level
from recipes.quality.speech_models import Whisper, load_speaker_encoder, whisper_log_mel
from recipes.quality.vocoder import LiteVocoder
from tests.tiny_voice import tiny_converter, voice_like

NAN = float("nan")
# --- words ------------------------------------------------------------------------------------------------------------


# --- clips ------------------------------------------------------------------------------------------------------------


def write_split(folder: Path, readers: set[str], utterances: int = 20) -> Path:
    """A table of utterances of 3, 4, ... words."""
    lines = ["utterance\treader\tsex\ttext"]
    for reader in sorted(readers):
        lines += [f"{reader}-{i:04}\t{reader}\tF\t{' '.join(['WORD'] * (i + 3))}" for i in range(utterances)]
    (folder / "transcripts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_validation_and_test_readers_differ() -> None:
    assert VALIDATION and TEST and not VALIDATION & TEST


def test_six_clips_of_seven_to_25_words_are_drawn_of_each_reader(tmp_path: Path) -> None:
    folder = write_split(tmp_path, {*VALIDATION, *TEST, "84"}, utterances=40)
    clips = read_readers(folder, "validation")
    assert [clip.reader for clip in clips] == [reader for reader in sorted(VALIDATION, key=int) for _ in range(6)]
    assert all(7 <= len((clip.text or "").split()) <= 25 for clip in clips)
    assert all(clip.path == folder / clip.reader / f"{clip.name}.mp3" for clip in clips)
    assert read_readers(folder, "validation") == clips
    assert read_readers(folder, "validation", seed=1) != clips
    assert {clip.reader for clip in read_readers(folder, "test")} == TEST


def test_the_choice_of_a_reader_does_not_depend_on_the_others(tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    few = [clip.name for clip in read_readers(write_split(tmp_path / "some", set(VALIDATION)), "validation")]
    assert [clip.name for clip in read_readers(write_split(tmp_path, {*VALIDATION, *TEST}), "validation")] == few


def test_a_missing_table_or_reader_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"transcripts\.tsv"):
        read_readers(tmp_path, "test")
    with pytest.raises(ConfigError, match="no utterances of the reader"):
        read_readers(write_split(tmp_path, set(VALIDATION)), "test")


def test_drawing_keeps_the_order_and_takes_all_of_few() -> None:
    clips = [Clip(str(i), Path(f"{i}.wav")) for i in range(9)]
    assert draw(clips, 20, "x") == clips
    drawn = draw(clips, 4, "x")
    assert len(drawn) == 4 and drawn == sorted(drawn, key=lambda clip: clip.name)


def test_texts_stand_beside_recordings(tmp_path: Path) -> None:
    (tmp_path / "transcripts.txt").write_text("a|Hello there\nb.flac | Good | day\nno text\n", encoding="utf-8")
    clips = read_files([tmp_path / "a.wav", tmp_path / "b.flac", tmp_path / "c.wav"], is_own=True)
    assert [clip.text for clip in clips] == ["Hello there", "Good | day", None]
    assert all(clip.is_own for clip in clips)


def test_sets_have_names_folders_and_languages(tmp_path: Path) -> None:
    for folder, name in (("one", "a"), ("two", "b"), ("two", "c")):
        (tmp_path / folder).mkdir(exist_ok=True)
        save_audio(tmp_path / folder / f"{name}.wav", voice_like(0.2), 16_000)
    sets = read_sets([f"old={tmp_path}/one", f"pt={tmp_path}/two:pt", f"old={tmp_path}/two"], "de")
    assert {name: [clip.name for clip in clips] for name, clips in sets.items()} == {
        "old": ["a", "b", "c"],
        "pt": ["b", "c"],
    }
    assert {clip.language for clip in sets["old"]} == {"de"} and {clip.language for clip in sets["pt"]} == {"pt"}
    with pytest.raises(ConfigError, match="write NAME=FOLDER"):
        read_sets([str(tmp_path)])


@pytest.mark.parametrize("snr_db", [0.0, 10.0])
def test_noise_has_the_level_that_is_asked_for(snr_db: float) -> None:
    audio = voice_like(3.0)
    noise = add_noise(audio, snr_db, seed=1) - audio
    assert 10 * np.log10(np.mean(audio**2) / np.mean(noise**2)) == pytest.approx(snr_db, abs=0.1)
    assert np.array_equal(add_noise(audio, snr_db, seed=1), add_noise(audio, snr_db, seed=1))
    assert not np.array_equal(add_noise(audio, snr_db, seed=1), add_noise(audio, snr_db, seed=2))


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_spectrogram_equals_whispers() -> None:
    from transformers import WhisperFeatureExtractor

    audio = voice_like(2.5)
    wanted = WhisperFeatureExtractor(feature_size=80)(audio, sampling_rate=16_000, return_tensors="np").input_features[
        0
    ]
    got = whisper_log_mel(torch.from_numpy(audio)).numpy()
    assert got.shape == wanted.shape == (80, 3000)
    assert np.abs(got - wanted).max() < 1e-3


def test_an_incomplete_folder_of_whisper_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"model\.bin.*requirements-quality\.txt"):
        Whisper(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("ctranslate2") is not None, reason="ctranslate2 is installed")
def test_a_missing_recogniser_is_named(tmp_path: Path) -> None:
    for name in ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="ctranslate2 is not installed"):
        Whisper(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("resemblyzer") is not None, reason="resemblyzer is installed")
def test_a_missing_speaker_encoder_is_named() -> None:
    with pytest.raises(ConfigError, match=r"resemblyzer is not installed.*requirements-quality\.txt"):
        load_speaker_encoder()


# --- figures ----------------------------------------------------------------------------------------------------------


def test_the_interval_covers_the_figure_and_narrows_with_more_clips() -> None:
    rng = np.random.default_rng(0)
    errors, words = rng.integers(0, 5, 20).astype(float), np.full(20, 10.0)
    few, many = bootstrap(errors, words), bootstrap(np.tile(errors, 16), np.tile(words, 16))
    assert few.value == pytest.approx(errors.sum() / words.sum()) == many.value
    assert few.low < few.value < few.high
    assert (many.high - many.low) / (few.high - few.low) == pytest.approx(1 / 4, rel=0.2)
    assert few == bootstrap(errors, words)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(1).standard_normal(400)
    found = bootstrap(values, np.ones(400))
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_longer_clips_weigh_more_and_unknown_ones_nothing() -> None:
    assert bootstrap(np.array([5.0, 0.0, NAN, 3.0]), np.array([5.0, 15.0, 10.0, 0.0])).value == 0.25
    nothing = bootstrap(np.array([NAN]), np.array([1.0]))
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()


def figures(**changes: float) -> Figures:
    values = {name: 0.5 for name in Figures.__dataclass_fields__}
    return Figures(**(values | changes))


def test_means_leave_out_what_is_unknown() -> None:
    mean = mean_figures([figures(word_errors=1, pause_db=NAN), figures(word_errors=4, pause_db=-40)])
    assert (mean.word_errors, mean.pause_db, mean.to_voice) == (2.5, -40, 0.5)
    assert np.isnan(mean_figures([figures(cents=NAN)]).cents)


def test_a_line_sums_words_and_divides_errors_by_them() -> None:
    line = Line("x", [ClipFigures("a", 5, figures(word_errors=2)), ClipFigures("b", 15, figures(word_errors=2))])
    intervals = line.intervals()
    assert line.words == 20
    assert intervals["word_error_rate"].value == 0.2
    assert intervals["to_voice"] == Interval(0.5, 0.5, 0.5)
    assert "word_errors" not in intervals


def test_pauses_are_measured_relative_to_speech() -> None:
    speech, silence = voice_like(1.0), np.zeros(16_000, np.float32)
    source = np.concatenate([speech, silence])
    noise = 0.01 * np.sqrt(np.mean(speech**2)) * np.random.default_rng(0).standard_normal(16_000)
    output = np.concatenate([speech, noise.astype(np.float32)])
    assert pause_level(source, output) == pytest.approx(-40, abs=0.5)
    assert np.isnan(pause_level(speech, speech)) and np.isnan(pause_level(silence, silence))


def test_samples_at_full_scale_are_counted() -> None:
    assert count_clipped(np.array([0.0, 1.0, -1.0, 0.99], np.float32)) == 2


# --- table and page ---------------------------------------------------------------------------------------------------


def say_nothing_new(audio: FloatArray, language: str) -> str:
    """A recogniser that always understands the same."""
    return "one two three"


def embed_spectrum(audio: FloatArray) -> FloatArray:
    """A speaker embedding: the unit vector of the mean spectrum."""
    spectrum = np.abs(np.fft.rfft(audio[: len(audio) // 400 * 400].reshape(-1, 400))).mean(0)
    unit: FloatArray = (spectrum / np.linalg.norm(spectrum)).astype(np.float32)
    return unit


@pytest.fixture(scope="module")
def pitch() -> PitchExtractor:
    return load_pitch_extractor("pm", torch.device("cpu"))


@pytest.fixture
def evaluator(tmp_path: Path, pitch: PitchExtractor) -> Evaluator:
    """A tiny voice with two held-out recordings, an octave above that of the sources."""
    for name, seed in (("own-1", 1), ("own-2", 2)):
        save_audio(tmp_path / f"{name}.wav", voice_like(1.0, seed), 16_000)
    (tmp_path / "transcripts.txt").write_text("own-1|one two\nown-2|one two three four\n", encoding="utf-8")
    references = read_files([tmp_path / "own-1.wav", tmp_path / "own-2.wav"], is_own=True)
    return Evaluator(tiny_converter(), say_nothing_new, embed_spectrum, pitch, references, voice_f0=300.0, repeats=2)


@pytest.fixture
def sources(tmp_path: Path) -> list[Clip]:
    save_audio(tmp_path / "s.wav", np.concatenate([voice_like(1.0), np.zeros(8000, np.float32)]), 16_000)
    return [Clip("s", tmp_path / "s.wav", "one too three four", "84"), Clip("t", tmp_path / "s.wav", None, "85")]


@pytest.mark.slow
def test_the_table_has_all_lines(evaluator: Evaluator, sources: list[Clip]) -> None:
    lines = {
        line.name: line for line in measure_all(evaluator, sources, evaluator.references[:1], {"old": sources[1:]})
    }
    assert list(lines) == [
        "other readers, unconverted",
        "training recordings, unconverted",
        "training recordings, converted",
        "held-out recordings, unconverted",
        "held-out recordings, converted",
        "other readers, defaults",
        "other readers with noise, unconverted",
        "other readers with noise, defaults",
        "old, unconverted",
        "old, defaults",
    ]
    plain = lines["other readers, unconverted"].intervals()
    assert plain["word_error_rate"].value == 0.5, "a clip without a text is its own reference and does not count"
    assert lines["other readers, unconverted"].words == 4 and lines["other readers, defaults"].words == 7
    assert np.isnan(plain["f0_correlation"].value) and np.isnan(plain["to_source"].value)
    converted = lines["other readers, defaults"].intervals()
    assert converted["word_error_rate"].value == pytest.approx(2 / 7)
    assert all(np.isfinite(converted[name].value) for name in page.COLUMNS if name != "f0_correlation")
    assert lines["held-out recordings, unconverted"].intervals()["word_error_rate"].value == pytest.approx(2 / 6)


@pytest.mark.slow
def test_a_vocoder_has_lines_of_its_own(evaluator: Evaluator, sources: list[Clip]) -> None:
    rate = evaluator.converter.sample_rate
    evaluator.vocoder = lambda clip, seed: clip.clean(rate)
    lines = {line.name: line for line in measure_all(evaluator, sources, [], {}) if "vocoder" in line.name}
    assert list(lines) == ["other readers, vocoder alone", "held-out recordings, vocoder alone"]
    figures = lines["other readers, vocoder alone"].intervals()
    assert figures["to_source"].value > 0.99 and figures["cents"].value < 5


def test_the_vocoder_of_a_lite_voice_keeps_length_and_f0(sources: list[Clip], pitch: PitchExtractor) -> None:
    torch.manual_seed(0)
    config = LiteConfig(
        sample_rate=24_000, n_fft=1024, hop_length=240, segment_frames=16, n_mels=40, prior_channels=8, prior_blocks=1,
        vocoder_channels=16, vocoder_blocks=1, n_speakers=1, gin_channels=4, content_width=9,
    )  # fmt: skip
    vocoder = LiteVocoder(LiteSynthesizer(config).eval(), pitch)
    first, again, other = (vocoder(sources[0], seed) for seed in (0, 0, 1))
    assert len(first) == len(sources[0].clean(24_000)) // 240 * 240 and np.isfinite(first).all()
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert median_f0(resample(first, 24_000, 16_000), pitch) == pytest.approx(150, rel=0.02)


def test_a_recording_is_not_compared_with_itself(evaluator: Evaluator) -> None:
    a, b = (embed_spectrum(clip.clean()) for clip in evaluator.references)
    similarity = evaluator.unconverted("own", evaluator.references).intervals()["to_voice"].value
    assert similarity == pytest.approx(float(a @ b), abs=1e-6) and similarity < 1


def test_sources_are_transposed_by_whole_semitones_and_own_recordings_are_not(
    evaluator: Evaluator, sources: list[Clip]
) -> None:
    assert median_f0(sources[0].clean(), evaluator.pitch) == pytest.approx(150, rel=0.02)
    assert evaluator.shift(sources[0], sources[0].clean()) == 12
    assert evaluator.shift(evaluator.references[0], evaluator.references[0].clean()) == 0
    assert evaluator.shift(sources[0], np.zeros(16_000, np.float32)) == 0


@pytest.mark.slow
def test_repeats_differ_by_their_seed(evaluator: Evaluator, sources: list[Clip]) -> None:
    first, again, other = (evaluator.convert(sources[0], ConvertOptions(), seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_noise_is_added_to_what_is_converted_only(evaluator: Evaluator, sources: list[Clip]) -> None:
    clip = noisy(sources)[0]
    assert not np.array_equal(clip.audio(), clip.clean())
    assert np.array_equal(clip.clean(), sources[0].clean())


@pytest.mark.slow
def test_the_page_has_table_players_and_figures(evaluator: Evaluator, sources: list[Clip], tmp_path: Path) -> None:
    lines = [
        evaluator.unconverted("readers <all>", sources),
        evaluator.converted("noise", noisy(sources[:1]), ConvertOptions()),
    ]
    examples = make_examples(evaluator, {"other readers": sources})
    assert [example.name for example in examples] == ["other-readers-s", "other-readers-t"]
    folder = tmp_path / "page"
    page.write_page(folder, "A & B", lines, examples, {"voice": "tiny"}, evaluator.pitch)
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "A &amp; B" in text and "readers &lt;all&gt;" in text and "<td>4</td>" in text
    for example in examples:
        for name in (f"{example.name}-source.opus", f"{example.name}-converted.opus", f"{example.name}.png"):
            assert f'src="{name}"' in text and (folder / name).stat().st_size > 0
    stored = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    assert stored["settings"] == {"voice": "tiny"}
    assert [line["name"] for line in stored["lines"]] == ["readers <all>", "noise"]
    assert stored["lines"][0]["figures"]["cents"] == {"value": None, "low": None, "high": None}
    assert stored["lines"][0]["clips"][0]["words"] == 4


def test_a_page_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_BYTES", 100)
    with pytest.raises(ConfigError, match="leave out pictures"):
        page.write_page(tmp_path, "x", [Line("a", [ClipFigures("a", 1, figures())])], [], {})


def test_rows_of_the_table_are_as_wide_as_its_head() -> None:
    row = page.cells(Line("other readers", [ClipFigures("a", 0, figures(word_errors=NAN))]))
    assert len(row) == len(page.HEADINGS) and row[2] == row[3] == "-"
    assert row[4] == ".500 [.500 .500]"
    assert page.format_interval(Interval(-0.25, -41.0, 10.5), 2) == "-.25 [-41.00 10.50]"
    assert len(page.text_row(row)) == len(page.text_row(page.HEADINGS))


# --- command line -----------------------------------------------------------------------------------------------------


def test_options_choose_the_clips(tmp_path: Path) -> None:
    base = ["--voice", "x", "--whisper", "w", "--held-out", str(tmp_path)]
    with pytest.raises(ConfigError, match="--readers needs --data"):
        read_other_readers(parse([*base, "--readers", "validation"]))
    assert read_other_readers(parse(base)) == []
    data = ["--data", str(write_split(tmp_path, set(VALIDATION)))]
    assert len(read_other_readers(parse([*base, *data, "--readers", "validation"]))) == 12
    with pytest.raises(AudioError, match="recording"):
        read_other_readers(parse([*base, *data]))
    save_audio(tmp_path / "a.wav", voice_like(0.2), 16_000)
    assert [clip.name for clip in read_other_readers(parse([*base, *data]))] == ["a"]
    assert expand([tmp_path, tmp_path / "b.wav"]) == [tmp_path / "a.wav", tmp_path / "b.wav"]
