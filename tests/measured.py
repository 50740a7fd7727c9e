"""The figures of README.md that come from `jobs/training/measured.csv`: `python -m tests.measured` writes them anew.

A figure stands between `<!-- measured: NAME -->` and `<!-- /measured -->`; `figures()` says what each name is, and
`test_readme.py` compares. What only the results files of an ablation know, the spread over videos, stands beside it in
`measured_videos.csv`, as `vis ablate` writes it (`videos.csv`).
"""

import csv
import re
from collections import Counter
from pathlib import Path
from statistics import mean

from jobs.ablation.ablate import AblationJob
from jobs.ablation.table import Comparison, Rows, markdown
from jobs.training.recipes.catalogue import MEASURED
from vis_models.masktrack_rcnn.rows import ROWS as MASKTRACK_ROWS
from vis_models.rgnn.rows import ROWS
from vis_models.rows import BASE

from .conftest import REPOSITORY

README = REPOSITORY / "README.md"
VIDEOS = MEASURED.with_name("measured_videos.csv")
PLACE = re.compile(r"(<!-- measured: (?P<name>\w+) -->)(?P<figure>.*?)(<!-- /measured -->)", re.DOTALL)
TABLE, DEMO = "rgnn_r18_world_hard", "rgnn_r18_world_demo"
CUES = "masktrack_r18_world_hard"
ALONE = {
    "demo": DEMO,
    "rgnn_easy": "rgnn_r18_world_easy",
    "easy": "masktrack_r18_world_easy",
    "idol_easy": "idol_r18_world_easy",
    "visstg_easy": "visstg_r18_world_easy",
    "maskprop_easy": "maskprop_r18_world_easy",
}
SINCE = {
    DEMO: "2026-11-29T12",
    "maskprop_r18_world_easy": "2026-11-29T18",
    "visstg_r18_world_easy": "2026-11-29T18",
    "idol_r18_world_easy": "2026-11-29T14",
}
"""When recipes became what they are: runs before are of another one of the same name."""

Line = dict[str, str]


def written(text: str, lines: list[Line], spreads: list[Line]) -> str:
    """The README with the figures of these lines."""
    known = figures(lines, spreads)
    return PLACE.sub(lambda place: f"{place[1]}{known[place['name']]}{place[4]}", text)


def figures(lines: list[Line], spreads: list[Line]) -> dict[str, str]:
    """Every figure by its name."""
    rows = of_table(TABLE, lines)
    detector = table_detector(rows)
    base = [line for line in rows if line["row"] == BASE and line["detector"] == detector]
    minutes = [float(line["minutes"]) for line in rows]
    compared = comparisons(rows, spreads, ROWS)
    cues = comparisons(of_table(CUES, lines), spreads, MASKTRACK_ROWS)
    found = {
        "cues": f"\n{markdown(cues, CUES, 'MODEL', trained=False)}",
        "table": f"\n{markdown(compared, TABLE, 'MODEL')}{_footnote(rows, compared)}",
        "runs": f"{len(AblationJob(detector=detector).runs)} runs",
        "minutes": f"{mean(minutes):.1f} minutes ({min(minutes):.1f} to {max(minutes):.1f})",
        "hard_seeds": f"{len(base)} seeds",
    }
    for short, recipe in ALONE.items():
        own = [line for line in lines if line["recipe"] == recipe and line["created_at"] >= SINCE.get(recipe, "")]
        found[f"{short}_runs"] = f"{len(own)} run{'s' if len(own) > 1 else ''}"
        found |= {f"{short}_{key}": f"{mean(float(line[key]) for line in own):.2f}" for key in ("ap", "ap50")}
    for key in ("ap", "ap50"):
        found[f"hard_{key}"] = f"{mean(float(line[key]) for line in base):.2f}"
    return found


def of_table(recipe: str, lines: list[Line]) -> list[Line]:
    """The lines of an ablation of this recipe."""
    return [line for line in lines if line["row"] and line["recipe"].partition(".")[0] == recipe]


def comparisons(rows: list[Line], spreads: list[Line], known: Rows) -> list[Comparison]:
    """Each row against the proposed approach, with the same seeds on the same detector."""
    usual = table_detector(rows)
    ap = {(line["row"], line["detector"], line["seed"]): float(line["ap"]) for line in rows}
    spread = {(s["row"], s["detector"], int(s["seeds"])): float(s["spread_of_videos"]) for s in spreads}
    found = []
    for row in (name for name in known if any(line["row"] == name for line in rows)):
        on = detector_of(row, rows)
        pairs = [(value, ap[BASE, on, seed]) for (name, d, seed), value in ap.items() if (name, d) == (row, on)]
        by_seed = tuple(value - base for value, base in pairs)
        videos = spread.get((row, on, len(pairs)))
        ours = mean(value for value, _ in pairs)
        found.append(
            Comparison(
                row, known[row], known[BASE], len(pairs), ours, mean(by_seed), videos, by_seed, elsewhere=on != usual
            )
        )
    return found


def table_detector(rows: list[Line]) -> str:
    """The detector of most runs."""
    return Counter(line["detector"] for line in rows).most_common(1)[0][0]


def detector_of(row: str, rows: list[Line]) -> str:
    """The table's detector, where the row ran on it, else the one of most of its runs."""
    own = [line for line in rows if line["row"] == row]
    usual = table_detector(rows)
    return usual if any(line["detector"] == usual for line in own) else table_detector(own)


def _footnote(rows: list[Line], compared: list[Comparison]) -> str:
    """What the proposed approach reaches on the other detectors."""
    notes = []
    for on in sorted({detector_of(each.name, rows) for each in compared if each.elsewhere}):
        base = [float(line["ap"]) for line in rows if (line["row"], line["detector"]) == (BASE, on)]
        notes.append(
            f"\n\\* On another detector; there the proposed approach has AP {100 * mean(base):.1f} ({len(base)}).\n"
        )
    return "".join(notes)


def read(path: Path) -> list[Line]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    README.write_text(written(README.read_text(), read(MEASURED), read(VIDEOS)))
