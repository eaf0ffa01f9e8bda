"""What stands in front of every request: who may ask, and what a browser may do with the answer.

A page of another site that the user has open can send requests to 127.0.0.1, and by a name of its own that it lets
point there (DNS rebinding) even read the answers. So a request must name an address or a known name in `Host`, and
what changes anything must come from our own page (`Origin`).
"""

from collections.abc import Collection, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

READS = ("GET", "HEAD")
NOTHING = "default-src 'none'; frame-ancestors 'none'"  # the policy of everything but the page
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}


class Guard:
    """ASGI middleware. `hosts`: names, besides localhost and every address, under which the app may be asked."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] = ()) -> None:
        self.app = app
        self.hosts = {"localhost", *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {"content-security-policy": NOTHING, **HEADERS}.items():
                    headers.setdefault(name, value)
            await send(message)

        problem = self._problem(scope["method"], Headers(scope=scope))
        answer = self.app if problem is None else JSONResponse({"message": problem}, 403)
        await answer(scope, receive, guarded)

    def _problem(self, method: str, headers: Mapping[str, str]) -> str | None:
        """Why a request is refused."""
        host = headers.get("host", "")
        if not self._known(host):
            return "this app is not known by that name; start it with --allow_host NAME"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and method not in READS:
            return "requests of other sites are refused"
        if method not in READS and urlsplit(headers.get("origin", "")).netloc != host:
            return "requests that do not come from this app's own page are refused"
        return None

    def _known(self, host: str) -> bool:
        """A name that points here because its owner says so is refused; an address cannot be pointed elsewhere."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in self.hosts:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True
