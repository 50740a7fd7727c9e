"""The tables of a paper, made again: every row by the same detector on the same videos, against the proposed approach.

What a row is depends on the paper. RGNN's change the network, and each trains a tracker (`trained.py`). Those of
MaskTrack R-CNN are rules by which one trained model is used (`played.py`). Each finished row is kept at once; running
the same ablation again goes on, and two that run side by side lose nothing of each other.
"""

from pydantic import NonNegativeInt, PositiveInt

from jobs.ablation import played, trained
from jobs.ablation.results import Asked, RowResult, keep, read_results, truth_of
from jobs.ablation.table import LARGE_GAP, compare, markdown, spreads
from jobs.settings import Settings
from jobs.store import LAYOUT, Store, code_version, now
from jobs.training.data_sets import prepare_data, read_data
from jobs.training.recipes.base import TrainJob
from jobs.training.recipes.catalogue import HARD_WORLDS, in_one_table, rows_of, with_row
from vis_models.config import Config, config_hash
from vis_models.data.readable import unreadable_frames
from vis_models.metrics.youtube_vis import GroundTruth
from vis_models.progress import Progress
from vis_models.rows import BASE


class AblationJob(Config):
    """Which rows, on what."""

    recipe: str = HARD_WORLDS["rgnn"]
    detector: str
    """Registered model whose detector every row shares; where nothing is trained, all of its weights."""
    others: tuple[str, ...] = ()
    """Models whose weights were trained as some rows say, and the detector's were not: these rows are played by
    them. Of another kind, over the same detector, where a row says so."""
    data: str | None = None
    """As in TrainJob, for recipes that draw no world."""
    rows: tuple[str, ...] | None = None
    """By their short names (`vis_models/*/rows.py`); None: all that share the detector's weights, and with `others`
    all, each of which needs its model. The proposed approach, with which each is compared, is among them without being
    named."""
    seeds: tuple[NonNegativeInt, ...] = (0, 1, 2)
    """Of training."""
    iterations: PositiveInt | None = None
    """Of each row; None: as the recipe says."""

    @property
    def chosen(self) -> tuple[str, ...]:
        every = rows_of(self.recipe) if self.others else in_one_table(self.recipe)
        return tuple(dict.fromkeys((BASE, *(every if self.rows is None else self.rows))))

    @property
    def runs(self) -> list[tuple[str, int]]:
        """(row, seed), first seeds first. Rows with a large published gap are trained with every seed, the others with
        the first; the base is there for every seed that another row has."""
        rows, first = rows_of(self.recipe), [(row, self.seeds[0]) for row in self.chosen]
        if not self.trains:
            return first
        gap = {name: (rows[BASE].published_ap or 0) - (rows[name].published_ap or 0) for name in self.chosen}
        repeated = [n for n in self.chosen if n == BASE or (gap[n] >= LARGE_GAP and rows[n].published_ap)]
        return first + [(row, seed) for seed in self.seeds[1:] for row in repeated]

    @property
    def trains(self) -> bool:
        """Whether the rows are trained."""
        return rows_of(self.recipe) is rows_of(HARD_WORLDS["rgnn"])

    @property
    def folder(self) -> str:
        left_out = {"rows", "seeds"} | {name for name in ("data", "others") if not getattr(self, name)}
        return f"{LAYOUT}/ablations/{self.recipe}-{config_hash(self.model_dump(mode='json', exclude=left_out))}"

    def job(self, row: str, seed: int) -> TrainJob:
        """The recipe of a row. Raises BadConfig: an unknown recipe or row, or a row with a detector of its own."""
        changes = {"seed": seed, "data": self.data} if self.data else {"seed": seed}
        made = with_row(
            self.recipe, row, changes | ({"detector": self.detector} if self.trains else {}), apart=bool(self.others)
        )
        if self.iterations:
            stages = [stage.model_copy(update={"iterations": self.iterations}) for stage in made.stages]
            made = made.model_copy(update={"stages": tuple(stages)})
        return made


class Ablation(Config):
    """What came out."""

    uri: str
    """Folder with `results.csv`, `videos.csv`, `table.md` and a results file of every run."""
    table: str
    """Markdown."""


def ablate(job: AblationJob, settings: Settings, progress: Progress | None = None, command: str = "") -> Ablation:
    """Score every row that has no result yet, trained before where rows are.

    Raises:
        BadConfig: an unknown row or recipe, no such model, or one of another kind than the recipe's.
    """
    report = progress or (lambda *_: None)
    for row in job.chosen:
        with_row(job.recipe, row, apart=bool(job.others))
    jobs = {run: job.job(*run) for run in job.runs}
    store, base = Store.open(settings), job.job(BASE, job.seeds[0])
    data = prepare_data(base, settings, report)
    sets = read_data(base, data, store)
    unreadable_frames(sets[1], 0.0)  # every row is scored on the same frames
    results = read_results(store, job.folder)
    finished = {(result.row, result.seed) for result in results}
    waiting = {run: made for run, made in jobs.items() if run not in finished}
    report("ablation", len(results), len(jobs), {})
    run_rows = trained.run_rows if job.trains else played.run_rows
    if waiting:
        asked = Asked((job.detector, *job.others), base, waiting, sets, job.folder)
        for (row, seed), figures, predictions in run_rows(asked, store, settings, report):
            result = RowResult(
                row=row,
                seed=seed,
                recipe=jobs[row, seed].recipe,
                detector=job.detector,
                data=data.name,
                videos=len(sets[1].videos),
                command=command,
                commit=code_version(),
                created_at=now(),
                **figures,
            )
            results = keep(store, job.folder, result, predictions)
            report("ablation", len(results), len(jobs), {row: f"AP {result.ap:.3f}"})
    comparisons = compare(rows_of(job.recipe), store, job.folder, truth_of(sets[1]))
    table = markdown(comparisons, job.recipe, job.detector, job.trains)
    store.write_bytes(f"{job.folder}/table.md", table.encode())
    store.write_bytes(f"{job.folder}/videos.csv", spreads(comparisons, job.detector).encode())
    return Ablation(uri=store.uri(job.folder), table=table)


def labels_of(job: AblationJob, settings: Settings) -> GroundTruth:
    """The validation labels that the rows were scored against."""
    base, store = job.job(BASE, job.seeds[0]), Store.open(settings)
    _, val_set = read_data(base, prepare_data(base, settings, lambda *_: None), store)
    return truth_of(val_set)
