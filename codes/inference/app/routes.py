"""HTTP: the page, uploads by pieces, the state for the page, previews, restorations, downloads."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from ...images.output_size import SizeOptions
from ...images.search import EXTENSIONS
from ...utils.errors import TesseraError
from ...viewer.app_page import app_page
from .guard import Guard
from .jobs import Cancelled
from .photograph import THUMBNAIL, VIEWS, Photograph
from .service import Service, Session, trouble_of
from .settings import LARGEST_TILE, MIB, SMALLEST_TILE, Dials, PreviewChoice, RequestError, parsed
from .state import outcome_state, size_state, state_of

Handler = Callable[[Request], Awaitable[Response]]
FORGETTING = 30.0  # seconds between two looks for sessions that have gone
MOST_JSON = 64 * 1024  # bytes of a request that is no upload
CUT_OFF = 499  # nobody is there to read it


class Routes:
    """The handlers of one service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.page = app_page(_facts(service))

    def all(self) -> list[Route]:
        one = "/api/photographs/{id}"
        return [
            Route("/", self.index),
            Route("/api/state", self._owned(self.state)),
            Route("/api/photographs", self._owned(self.upload), methods=["POST"]),
            Route(one, self._owned(self.remove), methods=["DELETE"]),
            Route(f"{one}/thumbnail", self._owned(self.thumbnail)),
            Route(f"{one}/view/{{name}}", self._owned(self.view)),
            Route(f"{one}/size", self._owned(self.size), methods=["POST"]),
            Route(f"{one}/preview", self._owned(self.preview), methods=["POST"]),
            Route(f"{one}/restore", self._owned(self.restore), methods=["POST"]),
            Route(f"{one}/cancel", self._owned(self.cancel), methods=["POST"]),
            Route(f"{one}/result", self._owned(self.result)),
            Route("/api/results.zip", self._owned(self.archive)),
        ]

    async def index(self, request: Request) -> Response:
        """The page; a browser that has no session is given one."""
        policy, text = self.page
        response = Response(text, media_type="text/html", headers={"content-security-policy": policy})
        name = _cookie(request)
        if self.service.session(request.cookies.get(name)) is None:
            key = self.service.new_session().id
            response.set_cookie(name, key, httponly=True, samesite="strict", secure=request.url.scheme == "https")
        return response

    async def state(self, _: Request, session: Session) -> Response:
        return JSONResponse(state_of(self.service, session))

    async def upload(self, request: Request, session: Session) -> Response:
        """The body is the file as it is, written as it arrives; its name is a header's, percent-encoded."""
        name = unquote(request.headers.get("x-file-name", "photograph"), errors="replace")
        length = request.headers.get("content-length", "")
        with self.service.arrival(session, name, int(length) if length.isdecimal() else None) as arrival:
            async for piece in request.stream():
                arrival.write(piece)
            photograph = await run_in_threadpool(arrival.finish)
        return JSONResponse({"id": photograph.id}, 201)

    async def remove(self, request: Request, session: Session) -> Response:
        self.service.remove(session, self._photograph(request, session))
        return Response(status_code=204)

    async def thumbnail(self, request: Request, session: Session) -> Response:
        return _file(self._photograph(request, session), THUMBNAIL)

    async def view(self, request: Request, session: Session) -> Response:
        photograph, name = self._photograph(request, session), request.path_params["name"]
        folder = photograph.folder / VIEWS
        known = [file.name for file in folder.iterdir()] if folder.is_dir() else []
        if name not in known or name.startswith("."):
            raise RequestError("there is no such picture", 404)
        return _file(photograph, f"{VIEWS}/{name}")

    async def size(self, request: Request, session: Session) -> Response:
        """How large a result would be that is asked for so."""
        photograph = self._photograph(request, session)
        wanted = self.service.size(photograph, parsed(SizeOptions, await _body(request)))
        return JSONResponse(size_state(wanted, self.service.models.scale))

    async def preview(self, request: Request, session: Session) -> Response:
        """Answers when the preview is made."""
        photograph = self._photograph(request, session)
        choice = parsed(PreviewChoice, await _body(request))
        job = self.service.preview(session, photograph, choice)
        try:
            outcome = await asyncio.shield(asyncio.wrap_future(job.future))
        except (Cancelled, CancelledError, asyncio.CancelledError):
            raise RequestError("this preview was replaced or cancelled", 409) from None
        except Exception:
            raise RequestError(trouble_of(job), 422) from None
        return JSONResponse(outcome_state(photograph, outcome))

    async def restore(self, request: Request, session: Session) -> Response:
        photograph = self._photograph(request, session)
        self.service.restore(session, photograph, parsed(Dials, await _body(request)))
        return Response(status_code=202)

    async def cancel(self, request: Request, session: Session) -> Response:
        self.service.cancel(self._photograph(request, session))
        return Response(status_code=202)

    async def result(self, request: Request, session: Session) -> Response:
        photograph = self._photograph(request, session)
        file = await run_in_threadpool(photograph.file, request.query_params.get("format", "same"))
        return FileResponse(file, filename=photograph.download_name(file))

    async def archive(self, request: Request, session: Session) -> Response:
        file = await run_in_threadpool(self.service.archive, session, request.query_params.get("format", "same"))
        gone = BackgroundTask(file.unlink, missing_ok=True)
        return FileResponse(file, filename="restored.zip", media_type="application/zip", background=gone)

    def _photograph(self, request: Request, session: Session) -> Photograph:
        return self.service.photograph(session, request.path_params["id"])

    def _owned(self, handler: Callable[[Request, Session], Awaitable[Response]]) -> Handler:
        """A handler that is given the session of the request, without which there is no answer."""

        async def of_session(request: Request) -> Response:
            session = self.service.session(request.cookies.get(_cookie(request)))
            if session is None:
                raise RequestError("this page is too old; load it again", 401)
            return await handler(request, session)

        return of_session


def build_app(service: Service, hosts: Collection[str] = ()) -> Starlette:
    """The application; it starts the service's worker, and at its end removes everything."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.start()
        forgetting = asyncio.create_task(_forget(service))
        try:
            yield
        finally:
            forgetting.cancel()
            service.close()

    return Starlette(
        routes=Routes(service).all(),
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={
            TesseraError: _told, OSError: _told, HTTPException: _told, ClientDisconnect: _told,
        },
        lifespan=lifespan,
    )  # fmt: skip


async def _forget(service: Service) -> None:
    while True:
        await asyncio.sleep(FORGETTING)
        await run_in_threadpool(service.forget)


async def _told(_: Request, error: Exception) -> Response:
    """Every error as one line of JSON."""
    if isinstance(error, HTTPException):
        return JSONResponse({"message": error.detail}, error.status_code, headers=dict(error.headers or {}))
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CUT_OFF)
    if isinstance(error, OSError):
        return JSONResponse({"message": f"the app cannot write: {error.strerror or 'unknown reason'}"}, 507)
    return JSONResponse({"message": str(error)}, getattr(error, "status", 400))


def _cookie(request: Request) -> str:
    """Browsers keep cookies by name of the machine, not by port: two apps on one machine are told apart here."""
    return f"tessera_{request.url.port or 'app'}"


def _file(photograph: Photograph, name: str) -> Response:
    file = photograph.folder / name
    if not file.is_file():
        raise RequestError("there is no such picture", 404)
    return FileResponse(file)


async def _body(request: Request) -> bytes:
    """The JSON of a request. Raises RequestError for one that is far too long."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_JSON:
            raise RequestError("the request is too long", 413)
    return bytes(body)


def _facts(service: Service) -> dict[str, object]:
    """What the page is told once."""
    models, limits = service.models, service.limits
    return {
        "scale": models.scale,
        "corruptions": list(models.corruptions),
        "max_bytes": limits.file_bytes,
        "max_mib": f"{limits.file_bytes / MIB:g}",
        "max_megapixels": f"{limits.pixels / 1e6:g}",
        "accept": ",".join(sorted(EXTENSIONS)),
        "tiles": [side for side in (128, 192, 256, 384, 512) if SMALLEST_TILE <= side <= LARGEST_TILE],
        "dials": Dials().model_dump(),
    }
