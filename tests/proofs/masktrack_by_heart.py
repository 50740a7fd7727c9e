"""MaskTrack R-CNN learns one clip by heart, to the outlines. A minute.

python -m pytest tests/proofs/masktrack_by_heart.py
"""

from tests.vis_models.test_learning import masktrack_by_heart


def test_masktrack_rcnn_learns_one_clip_by_heart_from_pairs():
    assert masktrack_by_heart(iterations=400)["AP"] >= 0.95
