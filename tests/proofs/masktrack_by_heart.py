"""MaskTrack R-CNN learns one clip by heart, to the outlines. A minute.

python -m pytest tests/proofs/masktrack_by_heart.py
"""

from tests.vis_models.test_learning import by_heart, small_masktrack


def test_masktrack_rcnn_learns_one_clip_by_heart_from_pairs():
    assert by_heart(small_masktrack, iterations=400)["AP"] >= 0.95
