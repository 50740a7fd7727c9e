"""The table of an ablation: every row against the proposed approach, on the same videos and seeds."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import copysign, sqrt
from statistics import stdev

from jobs.ablation.results import RowResult, matches_of, predictions_of, read_results
from jobs.store import Store
from vis_models.metrics.uncertainty import Outcome, outcomes, paired_difference
from vis_models.metrics.youtube_vis import GroundTruth
from vis_models.rows import BASE, Row

LARGE_GAP = 3.0
"""A published AP that is so much below the proposed approach is a gap whose sign must come out."""
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles for 1, 2, ... degrees of freedom; more take the last, which is a little too wide for them."""

Rows = Mapping[str, Row]
"""Those of a model's paper, by their short names."""


@dataclass(frozen=True)
class Comparison:
    """A row against the proposed approach, on the same videos and seeds."""

    name: str
    row: Row
    base: Row
    """The proposed approach as its paper reports it."""
    seeds: int
    ap: float
    difference: float
    """AP of the row minus AP of the proposed approach, mean over seeds."""
    spread_of_videos: float | None
    """Half the 95 % interval, had other videos been drawn; it knows nothing of the luck of a training run. None: not
    known."""
    by_seed: tuple[float, ...] = ()
    """The difference of each seed."""
    elsewhere: bool = False
    """Run on another detector than the other rows of the table; the difference is to the approach on that one."""

    @property
    def published_gap(self) -> float | None:
        published, base = self.row.published_ap, self.base.published_ap
        return None if published is None or base is None else published - base

    @property
    def spread_of_seeds(self) -> float | None:
        """Half the 95 % interval, had other seeds been trained: Student's t of the seeds' differences; None for one."""
        freedom = len(self.by_seed) - 1
        if freedom < 1:
            return None
        return STUDENT_T[min(freedom, len(STUDENT_T)) - 1] * stdev(self.by_seed) / sqrt(len(self.by_seed))

    @property
    def verdict(self) -> str:
        """Whether the sign of a published gap of 3 AP or more came out, by the wider spread; empty for smaller gaps,
        and where the spread of the videos is not known."""
        gap = self.published_gap
        if gap is None or abs(gap) < LARGE_GAP or self.spread_of_videos is None:
            return ""
        spread = max(self.spread_of_videos, self.spread_of_seeds or 0.0)
        said = "reproduced" if copysign(1, gap) * self.difference > spread else "not reproduced"
        return said if self.spread_of_seeds is not None else f"{said} in one run"


def compare(rows: Rows, store: Store, folder: str, truth: GroundTruth, replicates: int = 200) -> list[Comparison]:
    """Every row of an ablation against the proposed approach.

    Args:
        replicates: how often the videos are drawn again for the intervals.
    """
    results = {(result.row, result.seed): result for result in read_results(store, folder)}
    found = {run: outcomes(matches_of(truth, predictions_of(store, folder, *run))) for run in results}
    names = sorted({name for name, _ in results}, key=list(rows).index)
    return [_compare(rows, name, results, found, replicates) for name in names]


def _compare(
    rows: Rows,
    name: str,
    results: dict[tuple[str, int], RowResult],
    found: dict[tuple[str, int], list[dict[int, Outcome]]],
    replicates: int,
) -> Comparison:
    seeds = sorted(seed for row, seed in results if row == name and (BASE, seed) in results)
    mean = sum(results[name, seed].ap for seed in seeds) / len(seeds)
    pairs = [(found[name, seed], found[BASE, seed]) for seed in seeds]
    difference, error = paired_difference(pairs, replicates) if name != BASE else (0.0, 0.0)
    by_seed = tuple(results[name, seed].ap - results[BASE, seed].ap for seed in seeds)
    return Comparison(name, rows[name], rows[BASE], len(seeds), mean, difference, 1.96 * error, by_seed)


def markdown(comparisons: Sequence[Comparison], recipe: str, detector: str, trained: bool = True) -> str:
    """The table: paper AP, our AP, the difference with both its intervals, and where rows are trained the command."""
    head = ["table", "row", "paper AP", "our AP (seeds)", "minus proposed", "95 %, videos", "95 %, seeds",
            "the paper's gap", *(["`vis train ...`"] if trained else [])]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for each in comparisons:
        row = each.row
        paper = "diverges" if row.diverges else "" if row.published_ap is None else f"{row.published_ap:.1f}"
        paper += "" if row.published_ovis_ap is None else f" (OVIS {row.published_ovis_ap:.1f})"
        gap = " | | " if each.name == BASE else _gap(each)
        verdict = f"{each.published_gap:+.1f} {each.verdict}".strip() if each.published_gap else ""
        seeds = f"({each.seeds}) \\*" if each.elsewhere else f"({each.seeds})"
        line = f"| {row.table} | {row.title} | {paper} | {100 * each.ap:.1f} {seeds} | {gap} | {verdict} |"
        name = recipe if each.name == BASE else f"{recipe}.{each.name}"
        lines.append(f"{line} `--recipe {name} --detector {detector}` |" if trained else line)
    return "\n".join(lines) + "\n"


def _gap(each: Comparison) -> str:
    """Three cells: the difference, its spread over videos and over seeds, in points of AP."""
    seeds = "one run" if each.spread_of_seeds is None else f"± {100 * each.spread_of_seeds:.1f}"
    videos = "" if each.spread_of_videos is None else f"± {100 * each.spread_of_videos:.1f}"
    return f"{100 * each.difference:+.1f} | {videos} | {seeds}"


def spreads(comparisons: Sequence[Comparison], detector: str) -> str:
    """What only the results files know, as CSV: how far each difference spreads over videos."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "detector", "seeds", "spread_of_videos"])
    writer.writerows(
        [each.name, detector, each.seeds, round(each.spread_of_videos, 5)]
        for each in comparisons
        if each.name != BASE and each.spread_of_videos is not None
    )
    return text.getvalue()
