"""Did the score get worse? Each new evaluation against the last accepted one, by the paired test.

What is accepted is a record of its own under `vis/v1/accepted/`, one small file each time, never changed: the newest
one for a data set and its rules is what new evaluations are held against.

The first evaluation is accepted. Later ones are when their AP is not below the accepted one's, or when a person says
so. One that lies below by no more than chance is not a regression, but does not become the measure either: small losses
cannot add up unseen.
"""

from typing import Literal

from jobs import evaluations
from jobs.compare import Compared, CompareJob, compare_two
from jobs.settings import Settings
from jobs.store import LAYOUT, Store, now
from vis_models.config import Config
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
    accepted_at: str
    because: Literal["first", "not worse", "asked for"]
    instead_of: str | None
    """What was the measure before."""
    command: str = ""
    """What was typed, for the record."""


class JudgeJob(Config):
    """Which evaluation."""

    evaluation_id: str
    command: str = ""
    """What was typed, for the record."""


class Verdict(Config):
    """What became of an evaluation."""

    evaluation_id: str
    against: str | None
    """The evaluation that was accepted before; None: this is the first."""
    accepted: bool
    regressed: bool
    compared: Compared | None

    def __str__(self) -> str:
        if self.compared is None:
            return "accepted: the first evaluation of this data set by these rules"
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
    if against is None or against == evaluation_id:
        _record(store, evaluation_id, "first", None, job.command)
        return Verdict(evaluation_id=evaluation_id, against=None, accepted=True, regressed=False, compared=None)
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
    wanted = _subject(store, evaluation_id)
    for record in reversed(history(store)):
        if (record.data_sha256, record.rules) == wanted:
            return record.evaluation_id
    return None


def history(store: Store) -> list[Acceptance]:
    """Everything that was ever accepted, oldest first."""
    return [Acceptance.model_validate_json(store.read_bytes(key)) for key in store.list(FOLDER)]


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
    data_sha256, rules = _subject(store, evaluation_id)
    record = Acceptance(
        evaluation_id=evaluation_id,
        data_sha256=data_sha256,
        rules=rules,
        accepted_at=now(),
        because=because,
        instead_of=instead_of,
        command=command,
    )
    key = f"{FOLDER}/{evaluations.new_id(record.accepted_at)}.json"
    store.write_bytes(key, record.model_dump_json(indent=1).encode())
    return record


def _subject(store: Store, evaluation_id: str) -> tuple[str, str]:
    """Only evaluations of the same labels by the same rules can be held against each other."""
    provenance = evaluations.read(store, evaluation_id)[1]
    return str(provenance["data_sha256"]), str(provenance["rules"])
