import pytest
import torch

from vis_models.losses import lovasz_hinge, lovasz_softmax

pytestmark = pytest.mark.unit


def test_a_perfect_segmentation_costs_nothing():
    labels = torch.tensor([[[0, 1], [2, 2]]])
    probabilities = torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()
    assert lovasz_softmax(probabilities, labels).item() == 0


def test_hard_mistakes_cost_one_minus_the_overlap():
    labels = torch.tensor([[[1, 1, 0, 0]]])
    said = torch.tensor([[[1, 0, 0, 0]]])  # class 1 overlaps by 1/2, class 0 by 2/3
    probabilities = torch.nn.functional.one_hot(said, 2).permute(0, 3, 1, 2).float()
    assert lovasz_softmax(probabilities, labels).item() == pytest.approx((1 / 2 + 1 / 3) / 2)


def drawn_case(classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    dice = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (2, 3, 4), generator=dice)
    return torch.randn(2, classes, 3, 4, generator=dice, dtype=torch.float64, requires_grad=True), labels


@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("classes", ["present", "all"])
def test_gradients_of_lovasz_softmax_are_its_slopes(classes: str, per_image: bool):
    logits, labels = drawn_case()
    labels[0][labels[0] == 1] = 255
    assert torch.autograd.gradcheck(
        lambda logits: lovasz_softmax(logits.softmax(1), labels, classes, per_image, ignore=255), logits
    )


def test_gradients_of_the_hinge_form_are_its_slopes():
    logits, labels = drawn_case(classes=2)
    assert torch.autograd.gradcheck(lambda logits: lovasz_hinge(logits[:, 0], labels), logits)


def test_an_ignored_pixel_may_hold_anything():
    logits, labels = drawn_case()
    labels[:, 0, 0] = 255
    changed = logits.detach().clone()
    changed[:, :, 0, 0] = torch.tensor([9.0, -9.0, 0.0])
    values = [lovasz_softmax(x.softmax(1), labels, ignore=255).item() for x in (logits, changed)]
    assert values[0] == pytest.approx(values[1], rel=1e-12)
