from pathlib import Path

import numpy as np
import pytest
import torch

from vis_models.losses import lovasz_gradient, lovasz_softmax

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


def test_golden_parity_lovasz_present_classes_per_image(shared_data: Path):
    cases = sorted((shared_data / "golden" / "parity").glob("lovasz_*.npz"))
    checked = 0
    for path in cases:
        case = np.load(path)
        if "out.per_image_present.value" not in case or (case["in.labels"] == case["in.ignore"]).any():
            continue  # other forms of the loss
        logits = torch.from_numpy(case["in.logits"]).requires_grad_()
        value = lovasz_softmax(logits.softmax(1), torch.from_numpy(case["in.labels"]))
        value.backward()
        assert value.item() == pytest.approx(float(case["out.per_image_present.value"]), abs=1e-5), path.name
        expected = torch.from_numpy(case["out.per_image_present.grad_logits"])
        assert torch.allclose(logits.grad, expected, atol=1e-5), path.name
        checked += 1
    assert checked >= 3


def test_golden_parity_lovasz_gradient_of_the_extension(shared_data: Path):
    case = np.load(shared_data / "golden" / "parity" / "lovasz_gradient_vector.npz")
    for name in ("a", "b", "c", "d", "e"):
        ours = lovasz_gradient(torch.from_numpy(case[f"in.{name}"]))
        assert torch.allclose(ours, torch.from_numpy(case[f"out.{name}"]), atol=1e-6), name
