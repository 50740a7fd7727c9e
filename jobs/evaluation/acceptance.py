"""Did the score get worse? Each new evaluation against the last accepted one, by the paired test.

What is accepted is a record of its own under `vis/v1/accepted/`, one small file each time, never changed. The measure
for a data set and its rules is the best one that was accepted since a person last said what to accept: two judges at
the same time cannot lower it.

The first evaluation is accepted. Later ones are when their AP is not below the accepted one's, or when a person says
so. One that lies below by no more than chance is not a regression, but does not become the measure either: small losses
cannot add up unseen.
"""

from typing import Literal

from jobs.evaluation import evaluations, outcomes
from jobs.evaluation.compare import Compared, CompareJob, compare_two
from jobs.settings import Settings
from jobs.store import LAYOUT, Store, now
from vis_models.config import BadConfig, Config
from vis_models.progress import Progress

FOLDER = f"{LAYOUT}/accepted"
SAME_AP = 1e-9
"""Less is rounding."""
VIDEOS_SHOWN = 10


class Acceptance(Config):
    """From now on this evaluation is the measure."""

    evaluation_id: str
    data_sha256: str
    rules: str
    ap: float
    """As a fraction; -1: there is nothing to find."""
    accepted_at: str
    because: Literal["first", "not worse", "asked for"]
    instead_of: str | None
    """What was the measure before."""
    command: str = ""
    """What was typed, for the record."""


class JudgeJob(Config):
    """Which evaluation."""

    evaluation_id: str
    accept: bool = False
    """A person says so: it becomes the measure whatever its score."""
    command: str = ""
    """What was typed, for the record."""


class Verdict(Config):
    """What became of an evaluation."""

    evaluation_id: str
    against: str | None
    """The evaluation that was accepted before; None: this is the first. It may be this one, judged again."""
    accepted: bool
    regressed: bool
    compared: Compared | None

    def __str__(self) -> str:
        if self.against is None:
            return "accepted: the first evaluation of this data set by these rules"
        if self.against == self.evaluation_id:
            return "accepted already: it is what others are held against"
        if self.compared is None:
            return f"accepted: as asked for, instead of {self.against}"
        figures = f"AP changed by {self.compared}, against the accepted {self.against}"
        if self.regressed:
            return f"REGRESSION: {figures}"
        return f"accepted: {figures}" if self.accepted else f"no significant change: {figures}, which stays accepted"


def judge(job: JudgeJob, settings: Settings, progress: Progress | None = None) -> Verdict:
    """Compare with the accepted evaluation of the same labels and rules, and accept where it is not worse.

    Raises:
        BadConfig: there is no such evaluation, or the accepted one is gone.
    """
    store, evaluation_id = Store.open(settings), job.evaluation_id
    against = accepted(store, evaluation_id)
    if job.accept or against is None:
        _record(store, evaluation_id, "asked for" if job.accept else "first", against, job.command)
    if job.accept or against in (None, evaluation_id):
        return Verdict(evaluation_id=evaluation_id, against=against, accepted=True, regressed=False, compared=None)
    assert against is not None
    if not outcomes.kept(store, against):
        raise BadConfig(
            f"the accepted evaluation {against} lost its matches in {store.uri(outcomes.FOLDER)}, so nothing can be "
            "held against it: accept another one (`vis evaluate ... --accept`)"
        )
    compared = compare_two(CompareJob(one=evaluation_id, other=against), settings)
    if progress:
        progress("compare", 1, 1, {})
    not_worse = compared.difference >= -SAME_AP
    if not_worse:
        _record(store, evaluation_id, "not worse", against, job.command)
    return Verdict(
        evaluation_id=evaluation_id,
        against=against,
        accepted=not_worse,
        regressed=compared.significant and not not_worse,
        compared=compared,
    )


def accept(evaluation_id: str, settings: Settings, command: str = "") -> Acceptance:
    """Make an evaluation the measure, whatever its score. Raises BadConfig: there is no such evaluation."""
    store = Store.open(settings)
    return _record(store, evaluation_id, "asked for", accepted(store, evaluation_id), command)


def accepted(store: Store, evaluation_id: str) -> str | None:
    """The accepted evaluation of the same labels and rules. Raises BadConfig: there is no evaluation of this name."""
    _, provenance, _ = evaluations.read(store, evaluation_id)  # only the same labels and rules can be compared
    best: Acceptance | None = None
    for record in history(store):
        if (record.data_sha256, record.rules) != (provenance["data_sha256"], provenance["rules"]):
            continue
        if best is None or record.because == "asked for" or record.ap >= best.ap - SAME_AP:
            best = record
    return best.evaluation_id if best else None


def history(store: Store) -> list[Acceptance]:
    """Everything that was ever accepted, oldest first."""

    def read(key: str) -> Acceptance:
        return Acceptance.model_validate_json(store.read_bytes(key))

    return [record for _, record in store.readable(store.list(FOLDER), read)]


def alarm(verdict: Verdict) -> str:
    """A regression as a page: how much, how sure, and where to look first."""
    assert verdict.compared is not None, "the first evaluation is no regression"
    compared = verdict.compared
    rows = "".join(
        f"| {video.video_id} | {video.other:.3f} | {video.one:.3f} | {video.one - video.other:+.3f} |\n"
        for video in compared.changed[:VIDEOS_SHOWN]
    )
    return (
        f"# AP fell by {-compared.difference:.3f}\n\n{verdict}\n\n"
        f"| | AP |\n|---|---|\n| accepted, `{verdict.against}` | {compared.other.ap:.4f} |\n"
        f"| now, `{verdict.evaluation_id}` | {compared.one.ap:.4f} |\n\n"
        f"{len(compared.changed)} of {compared.videos} videos changed, most of all:\n\n"
        f"| video | accepted | now | change |\n|---|---|---|---|\n{rows}\n"
        f"`vis compare {verdict.evaluation_id} {verdict.against}` lists more. If this loss is meant, "
        "`vis evaluate ... --accept` makes it the measure.\n"
    )


def _record(
    store: Store,
    evaluation_id: str,
    because: Literal["first", "not worse", "asked for"],
    instead_of: str | None,
    command: str,
) -> Acceptance:
    rows, provenance, _ = evaluations.read(store, evaluation_id)
    rules = str(provenance["rules"])
    if not evaluations.is_of_a_model(provenance):
        raise BadConfig(f"{evaluation_id} is no score of a model made here ({rules}): it cannot be accepted")
    record = Acceptance(
        evaluation_id=evaluation_id,
        data_sha256=str(provenance["data_sha256"]),
        rules=rules,
        ap=evaluations.summary(rows).get("AP", -1.0),
        accepted_at=now(),
        because=because,
        instead_of=instead_of,
        command=command,
    )
    key = f"{FOLDER}/{evaluations.new_id(record.accepted_at)}.json"
    store.write_bytes(key, record.model_dump_json(indent=1).encode())
    return record
