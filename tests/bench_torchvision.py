"""Mask R-CNN on ResNet-50 beside torchvision's: `make bench-torchvision` (five minutes, most of them installing).

vislake does without torchvision, so the target makes an environment of its own for it. Both nets have the same random
weights, see the same frames in turns, find boxes and masks, and put the masks into the frame. Nothing here passes or
fails.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn  # type: ignore[import-not-found]

from vis_models.mask_rcnn import layouts
from vis_models.mask_rcnn.config import MaskRcnnConfig
from vis_models.mask_rcnn.model import MaskRcnn
from vis_models.types import Frames

SHARPNESS = 8.0
"""Random class weights times this: some proposals are then objects."""


def nets(height: int, width: int) -> tuple[torch.nn.Module, MaskRcnn]:
    """torchvision's and ours, on the same weights."""
    torch.manual_seed(0)
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, min_size=height, max_size=width).eval()
    with torch.no_grad():
        theirs.roi_heads.box_predictor.cls_score.weight *= SHARPNESS
    sides = {"shorter_px": height, "longer_most_px": width}
    ours = MaskRcnn(MaskRcnnConfig.torchvision(1).model_copy(update=sides | {"norm_eps": 1e-5})).eval()
    renamed = layouts.renamed(theirs.state_dict())
    assert renamed is not None
    ours.load_state_dict(renamed[1])
    return theirs, ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="384x640")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    height, width = map(int, given.size.split("x"))
    torch.set_num_threads(given.threads)
    theirs, ours = nets(height, width)
    frame = torch.randint(0, 255, (1, 3, height, width), dtype=torch.uint8)

    @torch.no_grad()
    def by_torchvision() -> int:
        return int((theirs(list(frame / 255))[0]["masks"] > 0.5).any(-1).any(-1).sum())

    @torch.no_grad()
    def by_us() -> int:
        encoded = ours.encode(Frames(frame))
        which = encoded.valid[0].nonzero().flatten().tolist()
        return int(ours.masks_of(encoded, 0, which, (height, width)).whole().any(-1).any(-1).sum())

    nets_ = {"torchvision": by_torchvision, "vislake": by_us}
    found = {name: run() for name, run in nets_.items()}
    times: dict[str, list[float]] = {name: [] for name in nets_}
    for turn in range(given.turns):
        for name in nets_ if turn % 2 else reversed(nets_):
            times[name].append(_seconds(nets_[name]))
    print(
        f"Mask R-CNN R50, {given.size}, fp32, {given.threads} threads, 1,000 proposals, median of {given.turns} turns"
    )
    for name, each in times.items():
        print(f"  {name:12} {median(each):6.2f} s a frame ({min(each):.2f} to {max(each):.2f}), {found[name]} masks")
    print(f"  ratio        {median(times['torchvision']) / median(times['vislake']):6.2f}")


def _seconds(run: Callable[[], int]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
