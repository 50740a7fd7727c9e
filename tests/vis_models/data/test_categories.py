import pytest

from vis_models.data.categories import counterparts

pytestmark = pytest.mark.unit


def test_names_are_joined_whatever_their_spelling_and_the_letter_by_letter_one_comes_first():
    others = ["Giant Panda", "sea-turtle", "dog", "Dog"]
    expected = {"giant_panda": "Giant Panda", "Sea  Turtle": "sea-turtle", "dog": "dog", "Dog": "Dog", "ape": None}
    assert counterparts(expected, others) == expected
