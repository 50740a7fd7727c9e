"""A line of a paper's table: what is changed against the proposed approach, and what the paper reports for it."""

from dataclasses import dataclass, field
from typing import Any, Literal

BASE = "proposed"
"""The row with which the others of a paper are compared."""


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    table: int
    title: str
    """As printed."""
    published_ap: float | None
    """On the validation server of YouTube-VIS 2019, in percent; None where the paper has no number."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of the model's config by dotted path; everything else is the proposed approach."""
    tracker: str | None = None
    """Another tracker (`trackers/config.py`) links what the same detector finds."""
    model: str | None = None
    """Another kind of model, trained over the same detector, plays it."""
    oracle: Literal["identity", "image"] | None = None
    """What is taken from the labels. Such a row says what would be left to gain; it is no rival."""
    diverges: bool = False
    """In the paper, training did."""
    published_ovis_ap: float | None = None
    """On that of OVIS, where the paper says."""
