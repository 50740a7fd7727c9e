"""MaskProp learns one clip by heart, to the outlines. Half a minute.

python -m pytest tests/proofs/maskprop_by_heart.py
"""

from tests.vis_models.test_learning import by_heart, small_mask_prop


def test_mask_prop_learns_one_clip_by_heart_from_pairs():
    assert by_heart(small_mask_prop, iterations=300)["AP"] >= 0.95
