import pytest
import torch

from vis_models.yolact import Yolact, YolactConfig, crop, decode_boxes, encode_boxes

from .drawn import HEIGHT, WIDTH, moving_squares, small_config

pytestmark = pytest.mark.unit


def test_the_paper_has_19248_priors_at_550_and_rgnn_25935_at_480_by_864():
    sizes = {"image_size": (550, 550), "prior_aspect": 1.0, "prior_denominator": 550.0}
    assert len(Yolact(YolactConfig(**sizes)).priors) == 19248
    assert len(Yolact(YolactConfig()).priors) == 25935


def test_a_prior_of_ratio_one_is_a_square_in_pixels():
    width, height = (Yolact(YolactConfig()).priors[0, 2:] * torch.tensor([864, 480])).tolist()
    assert width == pytest.approx(height)


def test_a_box_survives_coding_and_decoding():
    prior = torch.tensor([[0.5, 0.5, 0.2, 0.3]])
    box = torch.tensor([[0.41, 0.38, 0.66, 0.71]])
    back = decode_boxes(encode_boxes(box, prior), prior)
    assert back[0].tolist() == pytest.approx([0.535, 0.545, 0.25, 0.33], abs=1e-6)


def test_a_box_of_no_size_gives_finite_targets():
    prior = torch.tensor([[0.5, 0.5, 0.2, 0.3]])
    assert encode_boxes(torch.tensor([[0.5, 0.5, 0.5, 0.5]]), prior).isfinite().all()


def test_a_crop_keeps_the_box_and_one_pixel_around_it():
    inside = crop(torch.tensor([[[0.25, 0.25, 0.5, 0.75]]]), (8, 8))[0, 0]
    assert inside.any(0).nonzero().flatten().tolist() == [1, 2, 3, 4]
    assert inside.any(1).nonzero().flatten().tolist() == [1, 2, 3, 4, 5, 6]


def test_every_annotation_claims_a_prior_even_where_none_fits():
    model = Yolact(small_config().detector)
    tiny = torch.tensor([[[0.5, 0.5, 0.52, 0.53], [0.1, 0.1, 0.12, 0.13]]])
    matched, state = model._match(tiny, torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2, dtype=torch.bool))
    assert sorted(matched[state == 1].tolist()) == [0, 1]


def test_priors_inside_a_crowd_are_no_background():
    model = Yolact(small_config().detector)
    whole = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    _, state = model._match(whole, torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool))
    assert (state == -1).float().mean() > 0.5
    assert not (state == 1).any()


def test_a_batch_without_objects_has_a_finite_loss():
    clips = moving_squares()
    objects = clips.objects
    objects.masks[:] = False
    objects.visible[:] = False
    objects.boxes_px[:] = 0
    terms = Yolact(small_config().detector).loss(clips)
    assert all(term.isfinite() for term in terms.values())
    assert terms["mask"].item() == 0


def test_it_learns_two_squares_by_heart():
    torch.manual_seed(0)
    model = Yolact(small_config().detector)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    clips = moving_squares(clips=2, length=2)
    for _ in range(120):
        optimizer.zero_grad()
        sum(model.loss(clips).values()).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        found = model.instances(model(clips.frames[0, :1]), min_score=0.5)[0]
    assert sorted(found.classes[:2].tolist()) == [0, 1], found.scores
    first = found.classes.tolist().index(0)
    boxes_px, masks = found.at((HEIGHT, WIDTH))
    mask = masks[first]
    truth = clips.objects.masks[0, 0, 0]
    assert (mask & truth).sum() / (mask | truth).sum() > 0.7
    assert boxes_px[first].tolist() == pytest.approx(clips.objects.boxes_px[0, 0, 0].tolist(), abs=4)
