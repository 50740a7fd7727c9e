"""VisSTG learns one clip by heart. A minute.

python -m pytest tests/proofs/visstg_by_heart.py
"""

from tests.vis_models.test_learning import by_heart, small_visstg


def test_visstg_learns_one_clip_by_heart_from_pairs():
    assert by_heart(small_visstg, iterations=400)["AP"] >= 0.95
