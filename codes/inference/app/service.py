"""The app without its HTTP: sessions of users, their photographs, and the jobs on them. Methods may be called from any
thread; a session's id is its only key.
"""

import math
import secrets
import shutil
import threading
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ...images.output_size import SizeOptions
from ...utils.console import get_logger
from ...utils.errors import ConfigError
from ...utils.names import first_free, numbered
from ...utils.printable import printable
from ..restorer_sizes import ResultSize
from .folder import ProcessFolder
from .jobs import EXPECTED, Cancelled, Kind, QueuedJob, Worker
from .models import Models
from .photograph import Photograph
from .settings import MIB, Dials, Limits, PreviewChoice, RequestError

logger = get_logger(__name__)
LONGEST_NAME = 200  # characters of a file's name that are kept
ID_BYTES = 16


@dataclass(eq=False)
class Session:
    """What one browser holds; `seen`: when it was last heard of."""

    id: str
    photographs: dict[str, Photograph] = field(default_factory=dict)
    arriving: int = 0
    seen: float = field(default_factory=time.monotonic)


class Service:
    """Sessions and their photographs in one folder, and the worker that does their jobs."""

    def __init__(self, models: Models, limits: Limits | None = None, folder: ProcessFolder | None = None) -> None:
        self.models = models
        self.limits = limits or Limits()
        self.folder = folder or ProcessFolder()
        self.worker = Worker(self._is_present)
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        self.worker.start()

    def close(self) -> None:
        """End all jobs and remove every file."""
        self.worker.stop()
        self.folder.close()

    def session(self, key: str | None) -> Session | None:
        """The session of a key, which is heard of now."""
        with self._lock:
            session = self._sessions.get(key or "")
            if session is not None:
                session.seen = time.monotonic()
            return session

    def new_session(self) -> Session:
        """A session with a key that nobody can guess. Raises RequestError where there are too many."""
        self.forget()
        with self._lock:
            empty = (key for key, session in self._sessions.items() if not session.photographs and not session.arriving)
            if len(self._sessions) >= self.limits.sessions:
                oldest = min(empty, key=lambda key: self._sessions[key].seen, default=None)
                if oldest is None:
                    raise RequestError("too many people use this app now; try again later", 503)
                del self._sessions[oldest]
            session = Session(secrets.token_urlsafe(32))
            self._sessions[session.id] = session
            return session

    def forget(self) -> None:
        """Remove the sessions that were not heard of for long, with their files."""
        with self._lock:
            before = time.monotonic() - self.limits.forget
            gone = [session for session in self._sessions.values() if session.seen < before and not session.arriving]
            for session in gone:
                del self._sessions[session.id]
        for session in gone:
            for photograph in list(session.photographs.values()):
                self._discard(photograph)

    def photograph(self, session: Session, name: str) -> Photograph:
        """One of a session's own photographs. Raises RequestError."""
        photograph = session.photographs.get(name)
        if photograph is None:
            raise RequestError("there is no such photograph", 404)
        return photograph

    def arrival(self, session: Session, name: str, declared: int | None) -> "Arrival":
        """Room for an upload of `declared` bytes, where that is known. Raises RequestError."""
        limits = self.limits
        if declared is not None and declared > limits.file_bytes:
            raise RequestError(_too_long(limits), 413)
        if shutil.disk_usage(self.folder.path).free - (declared or 0) < limits.free_bytes:
            raise RequestError("the disk of the app is full; remove photographs and try again", 507)
        with self._lock:
            if len(session.photographs) + session.arriving >= limits.photographs:
                raise RequestError(f"{limits.photographs} photographs are the limit; remove some first", 409)
            session.arriving += 1
        return Arrival(self, session, name[:LONGEST_NAME])

    def admit(self, session: Session, photograph: Photograph) -> None:
        """Take over an upload that is whole, and read it."""
        job = QueuedJob(
            session.id, Kind.READ,
            lambda progress: photograph.understand(self.models, self.limits.pixels, progress),
        )  # fmt: skip
        photograph.reading = self.worker.submit(job)
        with self._lock:
            session.photographs[photograph.id] = photograph

    def remove(self, session: Session, photograph: Photograph) -> None:
        """Forget a photograph; what runs on it ends."""
        with self._lock:
            session.photographs.pop(photograph.id, None)
        self._discard(photograph)

    def preview(self, session: Session, photograph: Photograph, choice: PreviewChoice) -> QueuedJob:
        """Restore a region before all else; an earlier preview of the session that is not done ends."""
        self._check(photograph, choice)
        for other in list(session.photographs.values()):
            if other.previewing is not None:
                self.worker.cancel(other.previewing)
        job = QueuedJob(
            session.id, Kind.PREVIEW,
            lambda progress: photograph.preview(self.models, choice, progress),
        )  # fmt: skip
        photograph.previewing = job
        return self.worker.submit(job)

    def restore(self, session: Session, photograph: Photograph, dials: Dials) -> QueuedJob:
        """Put a photograph in the queue. Raises RequestError where it is there already."""
        self._check(photograph, dials)
        with self._lock:
            if photograph.restoring is not None and not photograph.restoring.future.done():
                raise RequestError("this photograph is being restored already; cancel that first", 409)
            job = QueuedJob(
                session.id, Kind.RESTORE,
                lambda progress: photograph.restore(self.models, dials, self.limits.pixels, progress),
            )  # fmt: skip
            photograph.restoring = job
        return self.worker.submit(job)

    def cancel(self, photograph: Photograph) -> None:
        """End what is being done to a photograph, at the next batch of tiles."""
        for job in photograph.jobs:
            self.worker.cancel(job)

    def archive(self, session: Session, wanted: str) -> Path:
        """A ZIP of all results of a session in a format, to be removed by the caller. Raises RequestError."""
        done = [photograph for photograph in list(session.photographs.values()) if photograph.result is not None]
        if not done:
            raise RequestError("nothing is restored yet", 404)
        target = self.folder.path / f"{secrets.token_hex(ID_BYTES)}.zip"
        taken: set[tuple[str, ...]] = set()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for photograph in done:
                usable = wanted if wanted == "same" or wanted in photograph.formats() else "png"
                file = photograph.file(usable)
                name = Path(photograph.download_name(file))
                names = (Path(f"{stem}{name.suffix}") for stem in numbered(name.stem, ""))
                archive.write(file, first_free(names, lambda path: [path], taken).name)
        return target

    def size(self, photograph: Photograph, output: SizeOptions) -> ResultSize:
        """How large a result would be. Raises RequestError where that cannot be, or is too much for this app."""
        if photograph.read is None:
            raise RequestError("this photograph is not read yet, or cannot be", 409)
        try:
            wanted = photograph.wanted(output, self.models.scale)
        except ConfigError as error:
            raise RequestError(str(error)) from None
        height, width = max(wanted.framing.size, wanted.restored, key=math.prod)
        if output.resized and height * width > self.limits.result_pixels:
            most = f"{self.limits.result_pixels / 1e6:g} megapixels, the limit of this app"
            raise RequestError(f"{output.in_words}: needs {width} × {height} pixels, more than {most}")
        return wanted

    def _check(self, photograph: Photograph, dials: Dials) -> None:
        """Raise RequestError for what cannot be restored so."""
        self.size(photograph, dials.output)
        unknown = [name for name in dials.strengths if name not in self.models.corruptions]
        if unknown:
            raise RequestError(f"strengths: no corruption {unknown[0]}; known: {', '.join(self.models.corruptions)}")

    def _is_present(self, key: str) -> bool:
        session = self._sessions.get(key)
        return session is not None and time.monotonic() - session.seen < self.limits.away

    def _discard(self, photograph: Photograph) -> None:
        """End the jobs of a photograph, and remove its folder once none of them writes there any more."""
        self.cancel(photograph)
        left = [job for job in photograph.jobs if not job.future.done()]
        if not left:
            shutil.rmtree(photograph.folder, ignore_errors=True)
        for job in left:
            job.future.add_done_callback(lambda _: shutil.rmtree(photograph.folder, ignore_errors=True))


class Arrival:
    """An upload that arrives by pieces, into a file of ours; a context manager that removes what is not finished."""

    def __init__(self, service: Service, session: Session, name: str) -> None:
        key = secrets.token_hex(ID_BYTES)
        self.service, self.session = service, session
        self.photograph = Photograph(key, name, service.folder.path / key)
        self.bytes = 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> "Arrival":
        self.photograph.folder.mkdir()
        self._file = self.photograph.upload.open("wb")
        return self

    def write(self, piece: bytes) -> None:
        """Raises RequestError as soon as there is more than the limit."""
        assert self._file is not None
        self.bytes += len(piece)
        if self.bytes > self.service.limits.file_bytes:
            raise RequestError(_too_long(self.service.limits), 413)
        self._file.write(piece)

    def finish(self) -> Photograph:
        """All has arrived. Raises RequestError for an empty file."""
        assert self._file is not None
        self._file.close()
        if self.bytes == 0:
            raise RequestError("the file is empty")
        self.service.admit(self.session, self.photograph)
        return self.photograph

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        self.session.arriving -= 1
        if self.photograph.id not in self.session.photographs:
            shutil.rmtree(self.photograph.folder, ignore_errors=True)


def _too_long(limits: Limits) -> str:
    return f"the file is larger than {limits.file_bytes / MIB:g} MiB, the limit of this app"


def trouble_of(job: QueuedJob | None) -> str:
    """Why a job failed, "" where it did not: it is not done, it was cancelled, or all went well."""
    if job is None or not job.future.done() or job.future.cancelled():
        return ""
    error = job.future.exception()
    if error is None or isinstance(error, Cancelled):
        return ""
    if isinstance(error, MemoryError):
        return "not enough memory for this photograph"
    if isinstance(error, OSError):
        return f"the app could not write or read a file ({error.strerror or 'unknown reason'})"
    return printable(str(error)) if isinstance(error, EXPECTED) else "an error of the app, which its log tells more of"
