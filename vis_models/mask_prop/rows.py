"""The rows of Tables 2 and 3 and of Figure 6 of Bertasius, Torresani, "Classifying, segmenting, and tracking object
instances in video with mask propagation", CVPR 2020: one trained model, different rules when it is used;
but for `no_attention`, of which the paper has no number and which is trained so, and for `masktrack`, whose head is
trained over the same detector.

Published numbers are those of its largest backbone, with clips of 13 frames; the figure is printed without any.
FlowNet2 is a network of its own, in whose place stands propagation by the detector's features.
"""

from vis_models.rows import BASE, Row

ROWS = {
    BASE: Row(2, "MaskProp", 46.6),
    "no_refinement": Row(2, "Without high-resolution refinement", 44.7, {"refinement": None}),
    "no_attention": Row(2, "Without the attention map", None, {"attention": False, "nobody": True}),
    "propagation": Row(3, "Feature propagation (paper: FlowNet2)", 31.4, tracker="propagation"),
    "masktrack": Row(3, "Tracking head of MaskTrack R-CNN", 36.9, model="masktrack_rcnn"),
    "iou_tracker": Row(3, "IoUTracker+ over the same detector", None, tracker="iou"),
    **{
        f"clip_{2 * reach + 1}": Row(6, f"Clips of {2 * reach + 1} frames", None, {"reach": reach})
        for reach in (1, 2, 4, 5, 6)
    },
    "image_oracle": Row(6, "Image Oracle", None, oracle="image"),
    "identity_oracle": Row(6, "Identity Oracle", None, oracle="identity"),
}
