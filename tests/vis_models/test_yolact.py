import pytest
import torch

from vis_models.layers.backbone_config import ResNetConfig
from vis_models.yolact import losses
from vis_models.yolact.config import YolactConfig
from vis_models.yolact.decisions import crop, decode_boxes, encode_boxes, suppress
from vis_models.yolact.model import Yolact, _priors
from vis_models.yolact.output import YolactOutput

from .drawn import HEIGHT, WIDTH, moving_squares, small_config

pytestmark = pytest.mark.unit


def tiny_config() -> YolactConfig:
    return YolactConfig(
        num_classes=2,
        image_size=(16, 24),
        backbone=ResNetConfig(depth=18, width=4, blocks=(1, 1, 1, 1), stem_pool=False),
        channels=8,
        prototypes=2,
        prototype_channels=4,
        prior_scales=((6.0,), (12.0,), (20.0,)),
        prior_ratios=(1.0,),
        prior_aspect=1.5,
        prior_denominator=20.0,
    )


def matched_by(model: Yolact, *annotations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return losses.match(model.config, model.priors, *annotations)


def drawn_case(model: Yolact, dtype: torch.dtype) -> tuple[YolactOutput, dict[str, torch.Tensor]]:
    """Random predictions for one frame, and three annotations of which the last is a crowd."""
    dice = torch.Generator().manual_seed(0)
    priors = len(model.priors)
    shapes = (1, priors, 4), (1, priors, 3), (1, priors, 2), (1, 2, 8, 12), (1, 2, 4, 6)
    values = [torch.randn(shape, generator=dice, dtype=dtype) for shape in shapes]
    corners_px = [(3, 4, 11, 12), (10, 6, 22, 14), (0, 0, 12, 8)]
    masks = torch.zeros(1, 3, 16, 24, dtype=torch.bool)
    for slot, (x0, y0, x1, y1) in enumerate(corners_px):
        masks[0, slot, y0:y1, x0:x1] = True
    truth = {
        "boxes": torch.tensor([corners_px], dtype=dtype) / torch.tensor([24, 16, 24, 16]),
        "masks": masks,
        "labels": torch.tensor([[0, 1, 1]]),
        "crowd": torch.tensor([[False, False, True]]),
        "visible": torch.ones(1, 3, dtype=torch.bool),
    }
    return YolactOutput(*values, features=(torch.zeros(1, 1, 1, 1),) * 3), truth


def numbers(terms: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: term.item() for name, term in terms.items()}


def test_the_paper_has_19248_priors_at_550_and_rgnn_25935_at_480_by_864():
    assert len(_priors(YolactConfig.released())) == 19248
    assert len(_priors(YolactConfig())) == 25935


def test_the_released_priors_are_squares_of_their_width_and_rgnn_s_are_not():
    released, rgnn = _priors(YolactConfig.released()), _priors(YolactConfig())
    assert torch.equal(released[:3, 2], released[:3, 3])
    assert released[:3, 2].tolist() == pytest.approx([24 / 550, 24 / 550 * 0.5**0.5, 24 / 550 * 2**0.5])
    assert (rgnn[:3, 2] / rgnn[:3, 3]).tolist() == pytest.approx([1 / 1.8, 0.5 / 1.8, 2 / 1.8])


def test_a_prior_of_ratio_one_is_a_square_in_pixels():
    width, height = (_priors(YolactConfig())[0, 2:] * torch.tensor([864, 480])).tolist()
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


def test_classes_do_not_suppress_each_other_unless_asked_to():
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.52]])
    scores = torch.tensor([[0.9, 0.1], [0.3, 0.8]])
    classes, index, score = suppress(boxes, scores, 0.5)
    assert (classes.tolist(), index.tolist(), score.tolist()) == ([0, 1], [0, 1], pytest.approx([0.9, 0.8]))
    classes, index, score = suppress(boxes, scores, 0.5, cross_class=True)
    assert (classes.tolist(), index.tolist(), score.tolist()) == ([0], [0], pytest.approx([0.9]))


def test_only_under_the_greedy_rule_a_fallen_box_spares_the_next():
    chain = torch.tensor([[0.0, 0, 0.4, 0.4], [0.12, 0, 0.52, 0.4], [0.24, 0, 0.64, 0.4]])
    scores = torch.tensor([[0.9, 0.8, 0.7]])
    assert suppress(chain, scores, 0.5, "fast")[1].tolist() == [0]
    assert suppress(chain, scores, 0.5, "greedy")[1].tolist() == [0, 2]


def test_a_frame_without_detections_has_no_masks():
    model = Yolact(tiny_config())
    output, _ = drawn_case(model, torch.float32)
    found = model.instances(output, min_score=0.9999)[0]
    boxes_px, masks = found.at((50, 60))
    assert (len(found.classes), boxes_px.shape, masks.shape) == (0, (0, 4), (0, 50, 60))


def test_every_annotation_claims_a_prior_even_where_none_fits():
    model = Yolact(small_config().detector)
    tiny = torch.tensor([[[0.5, 0.5, 0.52, 0.53], [0.1, 0.1, 0.12, 0.13]]])
    matched, state = losses.match(
        model.config, model.priors, tiny, torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2, dtype=torch.bool)
    )
    assert sorted(matched[state == 1].tolist()) == [0, 1]


def test_priors_inside_a_crowd_are_no_background():
    model = Yolact(small_config().detector)
    whole = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    _, state = losses.match(
        model.config, model.priors, whole, torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    )
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


def test_gradients_of_the_four_terms_are_their_slopes():
    model = Yolact(tiny_config()).double()
    output, truth = drawn_case(model, torch.float64)
    leaves = (output.boxes, output.logits, output.coefficients, output.prototypes, output.semantic)

    def terms(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(model.terms(YolactOutput(*values, features=output.features), **truth).values())

    assert all(term > 0 for term in terms(*leaves))
    assert torch.autograd.gradcheck(terms, tuple(leaf.requires_grad_() for leaf in leaves))


def test_the_order_of_annotations_changes_nothing():
    model = Yolact(tiny_config()).double()
    output, truth = drawn_case(model, torch.float64)
    shuffled = {name: values[:, [2, 0, 1]] for name, values in truth.items()}
    assert numbers(model.terms(output, **shuffled)) == pytest.approx(numbers(model.terms(output, **truth)), rel=1e-12)


def test_slots_without_an_annotation_change_nothing_whatever_lies_in_them():
    model = Yolact(tiny_config()).double()
    output, truth = drawn_case(model, torch.float64)
    rubbish = {name: values[:, :2].clone() for name, values in truth.items()}
    rubbish["visible"][:] = False
    rubbish["labels"][:] = -1
    rubbish["crowd"][:] = True
    padded = {name: torch.cat([rubbish[name], values, rubbish[name]], 1) for name, values in truth.items()}
    assert numbers(model.terms(output, **padded)) == pytest.approx(numbers(model.terms(output, **truth)), rel=1e-12)


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
