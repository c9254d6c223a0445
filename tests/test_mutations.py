"""The list of mutations matches the sources; running it is done by hand (tests/mutations.py)."""

import pytest

from tests.helpers import ROOT
from tests.mutations import MUTATIONS, Mutation, find


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_mutation_has_its_place_and_its_tests(mutation: Mutation) -> None:
    assert find(mutation).is_file()
    assert mutation.old != mutation.new and (ROOT / "tests" / f"test_{mutation.tests}.py").is_file()
