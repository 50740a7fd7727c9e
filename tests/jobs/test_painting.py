import numpy as np
import pytest

from jobs.reporting.painting import COLOURS, EDGE_PX, TINT, colour_of, paint

pytestmark = pytest.mark.unit


def test_a_mask_is_tinted_inside_and_solid_at_its_edge():
    grey = np.full((12, 12, 3), 100, np.uint8)
    square = np.zeros((12, 12), bool)
    square[2:10, 2:10] = True
    painted = paint(grey, [((200, 0, 50), square)])
    assert (painted[~square] == 100).all()
    assert (painted[2 : 2 + EDGE_PX, 2:10] == (200, 0, 50)).all()
    inside = painted[2 + EDGE_PX : 10 - EDGE_PX, 2 + EDGE_PX : 10 - EDGE_PX]
    assert (inside == np.round(100 * (1 - TINT) + TINT * np.array([200, 0, 50]))).all()
    assert (grey == 100).all()


def test_an_object_cut_by_the_border_has_no_edge_there():
    painted = paint(np.zeros((8, 8, 3), np.uint8), [((100, 100, 100), np.ones((8, 8), bool))])
    assert (painted == round(TINT * 100)).all()


def test_the_mask_that_is_painted_last_lies_on_top():
    everywhere = np.ones((1, 1), bool)
    black = np.zeros((1, 1, 3), np.uint8)
    below, above = (0, 255, 0), (255, 0, 0)
    red, green, blue = paint(black, [(below, everywhere), (above, everywhere)])[0, 0]
    assert red > green > blue == 0


def test_an_identity_keeps_its_colour_and_neighbours_differ():
    assert colour_of(3) == colour_of(3 + len(COLOURS)) != colour_of(4)
