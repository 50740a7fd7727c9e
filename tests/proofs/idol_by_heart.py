"""IDOL learns one clip by heart, to the outlines. A minute.

python -m pytest tests/proofs/idol_by_heart.py
"""

from tests.vis_models.test_learning import by_heart, small_idol


def test_idol_learns_one_clip_by_heart_from_pairs():
    assert by_heart(small_idol, iterations=400)["AP"] >= 0.95
