"""Word errors: how texts are split and counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.quality.words import count_errors, split_words

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=7)


@pytest.mark.parametrize(
    ("text", "language", "words"),
    [
        ("Mr. Quilter's well-known, 12 books!", "en", ["mister", "quilter's", "well", "known", "books"]),
        ("Der Lappen liegt: über_all.", "de", ["der", "lappen", "liegt", "über", "all"]),
        ("今日は good", "ja", ["今", "日", "は", "good"]),
        ("", "en", []),
    ],
)
def test_a_text_is_split_into_words(text: str, language: str, words: list[str]) -> None:
    assert split_words(text, language) == words


def test_errors_are_substitutions_insertions_and_deletions() -> None:
    reference = ["he", "was", "not", "an", "ill", "disposed", "young", "man"]
    assert count_errors(reference, reference) == 0
    assert count_errors(reference, ["he", "was", "not", "in", "ill", "disposed", "young", "man"]) == 1
    assert count_errors(reference, ["well", "he", "was", "an", "ill", "disposed", "man"]) == 3
    assert count_errors(reference, []) == len(reference)
    assert count_errors([], reference) == len(reference)


@pytest.mark.slow
@given(WORDS, WORDS, WORDS)
def test_the_number_of_errors_is_a_distance(a: list[str], b: list[str], c: list[str]) -> None:
    assert count_errors(a, b) == count_errors(b, a)
    assert (count_errors(a, b) == 0) == (a == b)
    assert count_errors(a, c) <= count_errors(a, b) + count_errors(b, c)
    assert abs(len(a) - len(b)) <= count_errors(a, b) <= max(len(a), len(b))
