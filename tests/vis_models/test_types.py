import pickle

import pytest
import torch
from pydantic import ValidationError

from vis_models.config import BadVideo, Config
from vis_models.rgnn.model import Rgnn
from vis_models.types import Frames
from vis_models.types import VideoInfo as Video

from .drawn import small_config

pytestmark = pytest.mark.unit


def test_a_config_refuses_a_key_that_it_does_not_know():
    class Speed(Config):
        limit: int = 3

    with pytest.raises(ValidationError, match="Extra inputs"):
        Speed(limitt=4)


def test_a_bad_video_keeps_its_code_on_the_way_between_processes():
    error = pickle.loads(pickle.dumps(BadVideo("cut short", code="truncated", frames_kept=7)))
    assert (str(error), error.code, error.frames_kept) == ("cut short", "truncated", 7)


def test_rows_can_be_picked_and_joined_again():
    state = Rgnn(small_config()).start([Video(str(n), 10 + n, 20) for n in range(3)])
    back = type(state).join([state[[2]], state[:2]])
    assert back.size_px.tolist() == [[12, 20], [10, 20], [11, 20]]
    assert len(back) == 3


def test_rows_of_encoded_frames_are_those_frames():
    model = Rgnn(small_config()).eval()
    pixels = torch.randint(0, 255, (3, 3, 64, 96), dtype=torch.uint8)
    whole, last = model.encode(Frames(pixels)), model.encode(Frames(pixels[2:]))
    assert torch.allclose(whole[[2]].boxes_px, last.boxes_px, atol=1e-3)
