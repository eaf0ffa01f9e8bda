"""What the page is told of a session, as plain data for JSON."""

from typing import Any

from ...utils.printable import printable
from ..restorer_sizes import ResultSize
from .jobs import QueuedJob
from .photograph import Outcome, Photograph
from .region import region_side
from .service import Service, Session, trouble_of


def state_of(service: Service, session: Session) -> dict[str, Any]:
    """All photographs of a session, in the order of their arrival."""
    positions = service.worker.positions()
    return {"photographs": [photograph_state(one, positions) for one in list(session.photographs.values())]}


def photograph_state(photograph: Photograph, positions: dict[QueuedJob, int]) -> dict[str, Any]:
    """`state`: reading, damaged, ready, waiting (with its place in the queue), running, done, failed."""
    reading, restoring, read = photograph.reading, photograph.restoring, photograph.read
    told: dict[str, Any] = {"id": photograph.id, "name": printable(photograph.name), "message": ""}
    if read is None:
        trouble = trouble_of(reading)
        return told | {
            "state": "damaged" if reading is None or reading.future.done() else "reading",
            "message": trouble,
        }
    told |= {
        "height": read.size[0], "width": read.size[1], "format": read.format, "bits": read.bit_depth,
        "notes": list(read.notes),
        "strengths": {
            name: {"value": round(found.strength, 3), "reason": found.reason, "sure": found.sure}
            for name, found in read.strengths.items()
        },
    }  # fmt: skip
    result = photograph.result
    if result is not None:
        told["result"] = outcome_state(photograph, result) | {"formats": photograph.formats()}
    return told | _of_job(restoring, positions, done=result is not None)


def outcome_state(photograph: Photograph, outcome: Outcome) -> dict[str, Any]:
    """A preview or a result: what the viewer needs, the dials, the time."""
    base = f"api/photographs/{photograph.id}/view"
    return {
        "views": [
            {**view.shape, "layers": {label: f"{base}/{name}" for label, name in view.files.items()}}
            for view in outcome.views
        ],
        "seconds": round(outcome.seconds, 2),
        "height": outcome.size[0],
        "width": outcome.size[1],
        "dials": outcome.dials.model_dump(),
        "notes": list(outcome.notes),
    }


def size_state(wanted: ResultSize, scale: int) -> dict[str, Any]:
    """A size that is asked for: the result's, the side of a preview in pixels of the photograph, what to know of it."""
    return {
        "height": wanted.framing.height,
        "width": wanted.framing.width,
        "side": region_side(wanted, scale),
        "notes": list(wanted.warnings),
    }


def _of_job(job: QueuedJob | None, positions: dict[QueuedJob, int], done: bool) -> dict[str, Any]:
    """The state that a restoration gives its photograph."""
    idle = {"state": "done" if done else "ready"}
    if job is None:
        return idle
    if not job.future.done():
        if job.started is None:
            return {"state": "waiting", "position": positions.get(job, 0)}
        remaining = job.remaining
        return {"state": "running", "share": job.share, "remaining": None if remaining is None else round(remaining, 1)}
    trouble = trouble_of(job)
    return {"state": "failed", "message": trouble} if trouble else idle
