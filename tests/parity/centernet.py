"""Checks of CenterNet, of which VisSTG is made: targets of boxes, losses with their gradients, and boxes of maps."""

from collections.abc import Callable

import torch
from torch import Tensor

from vis_models.vis_stg import centres
from vis_models.vis_stg.grid import Grid

from .case import OPERATOR, Case


def one_map(height: int, width: int) -> Grid:
    """A pyramid of one level whose cells are pixels."""
    return Grid(((height, width),), (1,))


def targets(case: Case) -> None:
    classes, height, width = case["in.heatmap_shape"].tolist()
    boxes, labels = case["in.boxes"], case["in.labels"]
    found = centres.targets(one_map(height, width), boxes, labels, torch.zeros_like(labels), classes)
    case.close("out.heatmap", found.heat.view(classes, height, width), OPERATOR)
    case.close("out.size", found.size, OPERATOR)
    case.close("out.offset", found.offset, OPERATOR)
    case.same("out.index", found.cell)
    case.same("out.mask", found.valid)
    sides = found.size.ceil().long().tolist()
    reach = [centres.radius(h, w, 0.7) if valid else 0.0 for (w, h), valid in zip(sides, found.valid, strict=True)]
    case.close("out.radius_float", torch.tensor(reach), OPERATOR)
    case.same("out.radius", torch.tensor(reach).long())


def losses(case: Case) -> None:
    logits, size, offset = (
        case[f"in.{name}"].clone().requires_grad_() for name in ("logits", "size_map", "offset_map")
    )
    wanted, valid = case["in.target_heatmap"].flatten(2), case["in.mask"].bool()
    cells = [index[own] for index, own in zip(case["in.index"], valid, strict=True)]

    def regression(maps: Tensor, name: str) -> Tensor:
        return centres.regression_loss(centres.at_cells(maps.flatten(2), cells), case[f"in.{name}"][valid])

    terms = [centres.heat_loss(logits.flatten(2), wanted), regression(size, "size"), regression(offset, "offset")]
    for name, term in zip(("focal", "size_l1", "offset_l1"), terms, strict=True):
        case.close(f"out.{name}", term, OPERATOR)
    total = terms[0] + 0.1 * terms[1] + terms[2]
    case.close("out.total", total, OPERATOR)
    gradients = torch.autograd.grad(total, (logits, size, offset))
    for name, gradient in zip(("logits", "size", "offset"), gradients, strict=True):
        case.close(f"out.grad_{name}", gradient, OPERATOR)
    case.close("out.focal_no_object", centres.heat_loss(logits.flatten(2), 0.9 * wanted), OPERATOR)


def decode(case: Case) -> None:
    heat, size, offset = (case[f"in.{name}"] for name in ("heatmap", "size_map", "offset_map"))
    grid, count = one_map(*heat.shape[2:]), int(case["in.k"])
    case.same("out.peak_mask", centres.peaks(grid, heat.flatten(2)).view_as(heat))
    found = centres.decode(grid, heat.flatten(2), size.flatten(2), offset.flatten(2), count)
    case.close("out.boxes", found.boxes_px, OPERATOR)
    case.close("out.scores", found.scores, OPERATOR)
    case.same("out.classes", found.labels)
    middle = centres.decode(grid, heat.flatten(2), size.flatten(2), None, count)
    case.close("out.boxes_without_offset", middle.boxes_px, OPERATOR)


CHECKS: dict[str, Callable[[Case], None]] = {
    "centernet_targets": targets,
    "centernet_losses": losses,
    "centernet_decode": decode,
}
SLOW: tuple[str, ...] = ()
