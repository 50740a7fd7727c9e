"""Mask R-CNN: boxes proposed, then classed, refined and filled with masks, one by one.

Source: He et al., "Mask R-CNN", ICCV 2017, on a feature pyramid; torchvision's two versions where the paper is silent.
Here it is the detector of MaskTrack R-CNN. Beside the paper open

    config.py       every choice, and presets of published weights
    model.py        the network, its answers for a tracker and for itself
    losses.py       the training objective: five terms
    layouts.py      names in published weights -> ours

The parts that others share are layers: `layers/rpn.py`, `roi_align.py`, `roi_heads.py`, `anchors.py`, `paste_masks.py`.
"""
