"""The rows of Tables 1 to 3 of Yang, Fan, Xu, "Video instance segmentation", ICCV 2019: one trained model, different
rules when it is used. OSMN is a network of its own, in whose place stands propagation by the detector's features."""

from itertools import product

from vis_models.rows import BASE, Row

CUES = ("det", "iou", "category")
_PUBLISHED: dict[tuple[bool, ...], float] = {
    (False, False, False): 16.2, (True, False, False): 19.0, (False, True, False): 23.7, (True, True, False): 24.7,
    (False, False, True): 24.7, (True, False, True): 25.7, (False, True, True): 29.8,
}  # fmt: skip


def _cue_rows() -> dict[str, Row]:
    """Table 2: every choice of the three cues beside the learned similarity, but all of them."""
    rows = {}
    for chosen in product((False, True), repeat=len(CUES)):
        if all(chosen):
            continue
        names = [name for name, taken in zip(CUES, chosen, strict=True) if taken]
        changes = {f"{name}_cue": taken for name, taken in zip(CUES, chosen, strict=True) if not taken}
        title = "Similarity" + "".join(f" + {name}" for name in names)
        rows["similarity" + "".join(f"_{name}" for name in names)] = Row(2, title, _PUBLISHED[chosen], changes)
    return rows


ROWS = {
    BASE: Row(1, "MaskTrack R-CNN", 30.2),
    "iou_tracker": Row(1, "IoUTracker+", 23.6, tracker="iou"),
    "propagation": Row(1, "Feature propagation (paper: OSMN)", 27.5, tracker="propagation"),
    "deepsort": Row(1, "DeepSORT", 26.1, tracker="deepsort"),
    "seq_tracker": Row(1, "SeqTracker", 27.5, tracker="seq"),
    **_cue_rows(),
    "image_oracle": Row(3, "Image Oracle", 78.7, oracle="image"),
    "identity_oracle": Row(3, "Identity Oracle", 31.5, oracle="identity"),
}
