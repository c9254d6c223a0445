# ruff: noqa: RUF001 - the letters of the phonetic alphabet are meant
"""The recipe of pretrained/lite: labels, corpus files, augmentation, training; without any synthesiser installed."""

import hashlib
import itertools
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from lib.content.lite import load
from lib.errors import ConfigError, MissingFileError, RevoiceError
from lib.models.lite_encoder import LiteEncoder
from lib.paths import PRETRAINED
from recipes.pretrain_lite import corpus, encoder, evaluate, labels, recordings, speech, text, voices
from recipes.pretrain_lite.base import turned, with_mean_speaker
from recipes.pretrain_lite.corpus import CorpusJob, pack, plan_jobs, run_job
from recipes.pretrain_lite.encoder import Corpus, EncoderTrainer, draw_crops, read_corpus
from recipes.pretrain_lite.options import CorpusOptions, EncoderOptions
from recipes.pretrain_lite.speech import Manner
from recipes.pretrain_lite.utterance import Utterance
from train import augment

TINY = EncoderOptions(
    steps=4, batch_size=3, crop_seconds=0.6, channels=16, blocks=1, kernel_size=3, save_every=2, bfloat16=False
)


# --- what the synthesisers say ----------------------------------------------------------------------------------------


def test_flite_prints_phones_and_ends() -> None:
    assert speech.parse_flite("pau:0.161 hh:0.234 ax:0.300 \n") == [("pau", 0.161), ("hh", 0.234), ("ax", 0.3)]
    assert speech.parse_flite("") == []


def test_festival_segments() -> None:
    assert speech.parse_segments("separator ;\n#\n0.22 100 pau\n0.3015 100 hh\n") == [("pau", 0.22), ("hh", 0.3015)]


def test_festival_script_cannot_be_broken_by_text(tmp_path: Path) -> None:
    voice = voices.NATURAL_VOICES[4]
    script = speech.festival_script(voice, ['he said "no" \\ (exit)'], [Manner(1.0, 100.0, 10.0)], tmp_path)
    assert script.startswith(f"(voice_{voice.name})")
    assert '(Utterance Text "he said  no    (exit)")' in script


def test_espeak_events_become_phones() -> None:
    events = [("h", 0.01), ("(en)", 0.05), ("iː", 0.06), ("", 0.2)]
    assert speech.ends_from_starts(events, 0.3) == [("pau", 0.01), ("h", 0.06), ("iː", 0.2), ("pau", 0.3)]
    assert speech.ends_from_starts([], 0.3) == []


def test_missing_program_names_its_package() -> None:
    with pytest.raises(MissingFileError, match="apt-get install"):
        speech.run_program(["no-such-synthesiser"], "some-package")


def test_missing_packages_are_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(corpus, "missing_packages", lambda: ["flite", "wdutch"])
    with pytest.raises(ConfigError, match="apt-get install flite wdutch"):
        corpus.make_corpus(CorpusOptions(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_missing_program_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert {"flite", "festival", "espeak-ng", "bible-kjv"} <= set(voices.missing_packages())


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "phones"),
    [
        ("ax", ("ah",)), ("hh", ("hh",)), ("#", ("pau",)), ("əl", ("ah", "l")), ("aɪɚ", ("ay", "er")),
        ("tʃ", ("ch",)), ("n̩", ("n",)), ("ʔ", ("t",)), ("☃", ("",)),
    ],
)  # fmt: skip
def test_english_names_have_one_spelling(name: str, phones: tuple[str, ...]) -> None:
    assert labels.english_phones(name) == phones


def test_every_ipa_target_is_an_english_phone() -> None:
    assert set(labels._IPA.values()) <= set(labels.ENGLISH_PHONES)
    assert len(set(labels.ENGLISH_PHONES)) == 40


def test_a_double_phone_is_divided() -> None:
    phones = labels.common_phones([("pau", 0.1), ("əl", 0.3)], "en")
    assert [name for name, _ in phones] == ["pau", "ah", "l"]
    assert [end for _, end in phones] == pytest.approx([0.1, 0.2, 0.3])
    assert labels.common_phones([("#", 0.1), ("r~*", 0.3)], "cs") == [("pau", 0.1), ("r~*", 0.3)]


@given(st.lists(st.floats(0.001, 0.4), min_size=1, max_size=30), st.integers(0, 400))
def test_frames_carry_the_phone_at_their_centre(durations: list[float], frames: int) -> None:
    ends = list(itertools.accumulate(durations))
    found = labels.frame_phones([(str(place), end) for place, end in enumerate(ends)], frames)
    assert len(found) == frames
    for frame, name in enumerate(found):
        centre = 0.02 * frame + 0.0125
        if name == "pau":
            assert centre >= ends[-1]
        else:
            start = ends[int(name) - 1] if int(name) else 0.0
            assert start <= centre < ends[int(name)]


# --- corpus -----------------------------------------------------------------------------------------------------------


def spoken(seconds: float, sample_rate: int = 16_000, seed: int = 0) -> Utterance:
    """A quiet half named "s", then a loud half named "a"."""
    count = round(seconds * sample_rate)
    audio = np.random.default_rng(seed).uniform(-1, 1, count).astype(np.float32)
    audio[: count // 2] *= 0.1
    return Utterance(audio, sample_rate, [("s", seconds / 2), ("aa", seconds)])


def test_packed_labels_follow_the_audio() -> None:
    arrays = pack([spoken(1.0), spoken(0.1), spoken(2.0, 22_050)], "en")
    assert arrays["lengths"].tolist() == [16_000, 32_000]  # a tenth of a second is too short to train on
    assert arrays["audio"].dtype == np.int16
    assert len(arrays["labels"]) == sum((length - 80) // 320 for length in (16_000, 32_000))
    names = arrays["names"][arrays["labels"]]
    assert names[:24].tolist() == ["s"] * 24
    assert names[25:49].tolist() == ["aa"] * 24


def test_silent_voice_is_an_error() -> None:
    with pytest.raises(RevoiceError):
        pack([Utterance(np.zeros(16_000, np.float32), 16_000, [("s", 1.0)])], "en")


def test_plan_is_the_same_every_time_and_keeps_the_shares() -> None:
    jobs = plan_jobs(CorpusOptions(hours=10))
    assert jobs == plan_jobs(CorpusOptions(hours=10))
    assert len({job.path for job in jobs}) == len(jobs)
    assert {job.voice for job in jobs} == set(voices.VOICES)
    assert jobs[0].rng().random() == jobs[0].rng().random() != jobs[1].rng().random()
    assert 0.8 * 10 < len(jobs) * corpus.JOB_HOURS < 1.3 * 10


def test_finished_job_is_not_spoken_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job = CorpusJob(voices.VOICES[0], 0, 2, 1)
    monkeypatch.setattr(corpus, "speak_job", lambda job, folder: [spoken(1.0), spoken(2.0, seed=1)])
    assert run_job(job, tmp_path) == pytest.approx(3.0)
    assert run_job(job, tmp_path) == 0.0
    assert [path.name for path in tmp_path.rglob("*.*")] == ["flite-awb-000.npz"]


def test_failed_job_leaves_no_file_and_names_the_voice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(corpus, "speak_job", lambda job, folder: [])
    with pytest.raises(RevoiceError, match="flite voice awb"):
        run_job(CorpusJob(voices.VOICES[0], 0, 2, 1), tmp_path)
    assert not list(tmp_path.rglob("*.npz"))


def test_sentences_of_a_word_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_text("alfa/X\nbeta\nxy\nGamma\ndelta7\n", encoding="utf-8")
    monkeypatch.setitem(text.WORD_LISTS, "test", text.WordList(path, "utf-8", "abcdefghijklmnopqrstuvwxyz", "none"))
    assert text.words_of("test") == ("alfa", "beta")
    said = text.sentence("test", random.Random(1))
    assert said == text.sentence("test", random.Random(1))
    assert set(said.lower().replace(",", "").rstrip(".").split()) <= {"alfa", "beta"}


def test_base_speakers_are_distinct() -> None:
    speakers = recordings.base_speakers(40)
    assert len({speaker.name for speaker in speakers}) == len(speakers) == 40


def test_a_silent_synthesiser_does_not_leave_the_sentence_before(tmp_path: Path) -> None:
    wave = tmp_path / "said.wav"
    soundfile.write(wave, np.zeros(100), 16_000)
    with pytest.raises(RevoiceError, match="wrote no sound: no voice"):
        speech.said_by([sys.executable, "-c", "print('no voice')"], "python", wave)
    write = f"import shutil; shutil.copy({str(tmp_path / 'b.wav')!r}, {str(wave)!r})"
    soundfile.write(tmp_path / "b.wav", np.full(50, 0.5), 8000)
    audio, sample_rate = speech.said_by([sys.executable, "-c", write], "python", wave)
    assert sample_rate == 8000 and audio.tolist() == [0.5] * 50


# --- augmentation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "place"), [(1.2, 60), (0.8, 40), (1.0, 50)])
def test_warp_moves_a_peak(factor: float, place: int) -> None:
    spectrum = torch.zeros(1, 2, augment.BINS)
    spectrum[:, :, 50] = 1.0
    assert augment.warp_frequency(spectrum, torch.tensor([[factor]])).argmax(2).tolist() == [[place, place]]


def test_no_warp_changes_nothing() -> None:
    spectrum = torch.rand(2, 3, augment.BINS)
    torch.testing.assert_close(augment.warp_frequency(spectrum, torch.ones(2, 3)), spectrum)


def test_views_are_finite_alike_for_a_seed_and_different_for_another() -> None:
    audio = torch.randn(3, 16_080, generator=torch.Generator().manual_seed(0)) * 0.1
    filters = LiteEncoder(8, 1).filters
    before = audio.clone()
    first, same, other = (
        augment.changed_view(audio, filters, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == (3, 80, 99)
    assert torch.isfinite(first).all()
    torch.testing.assert_close(first, same)
    torch.testing.assert_close(audio, before)
    assert (first - other).abs().mean() > 0.1


# --- training ---------------------------------------------------------------------------------------------------------


def tiny_corpus(folder: Path) -> Corpus:
    for place, phone_set in enumerate(("en", "cs")):
        target = folder / phone_set / "test-voice-000.npz"
        target.parent.mkdir(parents=True)
        np.savez(target, **pack([spoken(1.5, seed=place), spoken(2.0, seed=place + 9)], phone_set))  # type: ignore[arg-type]
    return read_corpus(folder)


def test_crops_hold_the_audio_of_their_labels(tmp_path: Path) -> None:
    data = tiny_corpus(tmp_path)
    assert data.classes == ["cs/aa", "cs/s", "en/aa", "en/s"]
    crops = draw_crops(data, 8, 30, np.random.default_rng(0))
    assert crops.audio.shape == (8, 30 * 320 + 80)
    loudness = crops.audio[:, :9600].view(8, 30, 320).square().mean(2).sqrt()
    loud = crops.labels % 2 == 0  # "aa" is the first of each set
    border = torch.zeros_like(loud)
    border[:, 1:] = loud[:, 1:] != loud[:, :-1]
    border[:, :-1] |= border[:, 1:].clone()
    assert loudness[loud & ~border].min() > 0.25
    assert loudness[~loud & ~border].max() < 0.15
    assert crops.possible.sum(1).tolist() == [2] * 8
    assert crops.possible.gather(1, crops.labels).all()


def test_missing_corpus_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="pretrain_lite corpus"):
        read_corpus(tmp_path)


def test_other_phone_sets_do_not_count(tmp_path: Path) -> None:
    scores = torch.tensor([[[5.0, 0.0, 9.0, 9.0]]])
    possible = torch.tensor([[True, True, False, False]])
    loss = encoder.phone_loss(scores, torch.tensor([[0]]), possible)
    assert loss.item() == pytest.approx(np.log(1 + np.exp(-5)), abs=1e-5)
    frames = encoder.phone_loss(scores.repeat(1, 2, 1), torch.tensor([[0, encoder.IGNORED]]), possible)
    assert frames.item() == pytest.approx(loss.item())


def test_resumed_training_is_the_same_training(tmp_path: Path) -> None:
    data = tiny_corpus(tmp_path / "corpus")
    whole = EncoderTrainer(TINY, data, tmp_path)
    for _ in range(4):
        whole.train_step()
    half = EncoderTrainer(TINY, data, tmp_path)
    half.train_step()
    half.train_step()
    half.save()
    torch.manual_seed(99)
    rest = EncoderTrainer(TINY, data, tmp_path)
    assert rest.resume()
    assert rest.step == 2
    rest.train_step()
    rest.train_step()
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(rest.model.state_dict()[name], value)
        torch.testing.assert_close(rest.averaged[name], whole.averaged[name])


def test_state_of_other_options_is_not_continued(tmp_path: Path) -> None:
    data = tiny_corpus(tmp_path / "corpus")
    EncoderTrainer(TINY, data, tmp_path).save()
    assert not EncoderTrainer(TINY.model_copy(update={"seed": 5}), data, tmp_path).resume()


def test_training_learns_and_its_file_loads(tmp_path: Path) -> None:
    tiny_corpus(tmp_path / "corpus")
    options = TINY.model_copy(update={"steps": 40, "learning_rate": 5e-3, "save_every": 40})
    path = encoder.train_encoder(options, tmp_path, tmp_path / "encoder.safetensors")
    trainer = EncoderTrainer(options, read_corpus(tmp_path / "corpus"), tmp_path)
    assert trainer.resume()
    assert trainer.step == 40
    before = EncoderTrainer(options, trainer.corpus, tmp_path).train_step()["phones"]
    assert trainer.train_step()["phones"] < 0.8 * before
    content = load("lite", torch.device("cpu"), path)(np.random.default_rng(0).random(5000).astype(np.float32))
    assert content.shape == (15, 256)
    assert not list(tmp_path.glob(".part-*"))


# --- evaluation -------------------------------------------------------------------------------------------------------


@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_edit_distance_is_a_distance(first: str, second: str) -> None:
    there, back = evaluate.edit_distance(first, second), evaluate.edit_distance(second, first)
    assert there == back
    assert (there == 0) == (first == second)
    assert abs(len(first) - len(second)) <= there <= max(len(first), len(second))


def test_best_path_does_not_flicker() -> None:
    scores = np.log(np.array([[0.9, 0.1], [0.45, 0.55], [0.9, 0.1], [0.01, 0.99], [0.01, 0.99], [0.01, 0.99]]))
    assert evaluate.best_path(scores) == [0, 1]


def test_probe_finds_a_speaker_only_where_there_is_one() -> None:
    rng = np.random.default_rng(0)
    same = [rng.standard_normal((200, 8)) for _ in range(6)]
    assert evaluate.speaker_probe(same[:4], same[4:]) == pytest.approx(0.5, abs=0.06)
    assert evaluate.speaker_probe(same[:4], [item + 4 for item in same[4:]]) > 0.95


def test_agreement_counts_equal_phones() -> None:
    stock = (np.eye(3), np.array(["a", "b", "c"]))
    assert evaluate.neighbour_agreement((np.eye(3) * 5, np.array(["a", "b", "x"])), stock) == pytest.approx(2 / 3)


@pytest.mark.parametrize("letter", ["G", "D"])
def test_shipped_base_models_are_the_ones_on_their_card(letter: str) -> None:
    path = PRETRAINED / "lite" / f"{letter}.safetensors"
    card = (PRETRAINED / "lite" / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    assert f"{path.stat().st_size:,} bytes" in card
    assert f"{sum(tensor.numel() for tensor in load_file(path).values()):,} parameters" in card


def test_the_mean_speaker_fills_the_untrained_rows() -> None:
    table = torch.arange(12.0).reshape(6, 2)
    filled = with_mean_speaker({"emb_g.weight": table}, 3)["emb_g.weight"]
    assert filled[1:4].tolist() == table[1:4].tolist()
    mean = table[1:4].mean(0).tolist()
    assert filled[0].tolist() == filled[4].tolist() == filled[5].tolist() == mean
    assert table[0].tolist() == [0.0, 1.0]


def test_a_base_turned_to_features_that_say_the_same_does_the_same() -> None:
    chance = torch.Generator().manual_seed(3)
    old = torch.randn(400, 8, generator=chance)
    mixing, offset = torch.randn(8, 8, generator=chance) + 3 * torch.eye(8), torch.randn(8, generator=chance)
    first = {"enc_p.emb_phone.weight": torch.randn(5, 8, generator=chance), "enc_p.emb_phone.bias": torch.ones(5)}
    now = turned(first, old, old @ mixing + offset, penalty=1e-9)
    expected = torch.nn.functional.linear(old, *first.values())
    got = torch.nn.functional.linear(old @ mixing + offset, *now.values())
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)


def test_contrast_wants_neighbours_of_the_same_phone_in_other_recordings() -> None:
    labels, crops = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
    by_phone, by_crop = torch.eye(2)[labels], torch.eye(2)[crops]
    assert encoder.phone_contrast(by_phone, labels, crops) < 0.01
    assert encoder.phone_contrast(by_crop, labels, crops) > 0.5
    assert encoder.phone_contrast(by_phone, labels, labels * 0) == 0
