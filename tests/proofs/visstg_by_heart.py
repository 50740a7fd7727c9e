"""VisSTG learns one clip by heart: AP 0.80, AP75 1.00. A minute.

python -m pytest tests/proofs/visstg_by_heart.py
"""

from tests.vis_models.test_learning import by_heart, small_visstg


def test_visstg_learns_one_clip_by_heart_from_pairs():
    score = by_heart(small_visstg, iterations=400)
    assert score["AP75"] >= 0.95
    assert score["AP"] >= 0.75
