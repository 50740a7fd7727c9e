"""What segmenting an archive would do and cost, from its listing and from what was measured before."""

import pyarrow.compute as pc

from jobs import models
from jobs.lake import Lake
from jobs.segmentation.segment import SegmentJob, footage, work_of
from jobs.store import Store
from vis_models.cards import read_card


def forecast(store: Store, job: SegmentJob) -> dict[str, str]:
    """Words by heading. No byte of a video is read, and nothing is written but what other runs left unpublished.

    Raises:
        BadConfig: as `segment` does.
    """
    card = read_card(store.local_copy(models.find(store, job.model)))
    work = work_of(store, job, card)
    again = work.known.again
    size = sum(source.size_bytes for source in work.archive.videos)
    said = {
        "archive": f"{work.name} by {card.name}",
        "found": f"{len(work.units)} videos, {size / 1e9:.2f} GB"
        if size > 1e9
        else f"{len(work.units)} videos, {size / 1e6:.1f} MB",
        "done before": f"{len(work.known.fine)}",
        "to do": f"{len(work.todo)}" + (f", {len(again)} of them once more" if again else ""),
    }
    if work.archive.passed_over:
        said["not read"] = ", ".join(f"{row.files} {row.kind} ({row.why})" for row in work.archive.passed_over[:5])
    if not work.todo:
        return said
    rows = Lake(store).batches()
    rows = rows.filter(pc.equal(rows["model"], card.name)) if len(rows) else rows
    frames, seconds = (pc.sum(rows[name]).as_py() or 0 for name in ("frames", "wall_s"))
    guess = sum(footage(unit.source) for unit in work.todo)
    if not frames or not seconds:
        said["time"] = f"unknown: {card.name} has segmented nothing here yet; try a few videos first"
        return said
    done = sum(footage(unit.source) for unit in work.units if unit.id in work.known.fine)
    share = work.known.counts["frames"] / done if done else 1.0  # frames for each that was guessed from bytes
    hours = guess * share * seconds / frames / 3600
    sure = "" if done else ", guessed from the bytes of its files"
    spent = f"{hours:.1f} hours" if hours >= 1 else f"{max(1, round(hours * 60))} min"
    said["time"] = f"{spent} of one worker, at {frames / seconds:.1f} frames/s as measured here{sure}"
    if (price := store.settings.worker_hour_price) is not None:
        said["cost"] = f"{hours * price:,.2f} at {price:g} an hour"
    return said
