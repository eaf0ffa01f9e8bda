"""Starting the app: the port, the networks, the server, and what remains at its end (nothing)."""

import signal
import socket
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address

import uvicorn

from ...utils.console import get_logger
from ...utils.errors import ConfigError, Interrupted
from .models import Models
from .routes import build_app
from .service import Service
from .settings import Limits

logger = get_logger(__name__)
GRACE = 3  # seconds that answers which are under way have at the end


@dataclass(frozen=True)
class Place:
    """Where the app listens, and the names besides addresses and localhost under which it may be asked."""

    host: str = "127.0.0.1"
    port: int = 7860
    names: Collection[str] = ()

    def listen(self) -> socket.socket:
        """Raises ConfigError where that cannot be."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((self.host, self.port))
            listening.listen()
        except OverflowError:
            raise ConfigError(f"--port {self.port}: expected 0 to 65535 (0: any that is free)") from None
        except OSError as error:
            listening.close()
            hint = "another program listens there; choose another --port, or 0 for any that is free"
            reason = error.strerror or str(error)
            raise ConfigError(f"cannot listen on {self.host}, port {self.port} ({reason}): {hint}") from None
        return listening

    @property
    def is_private(self) -> bool:
        """Whether this machine alone can ask."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def serve(listening: socket.socket, place: Place, models: Models, limits: Limits) -> None:
    """Serve until a signal ends it; raises Interrupted then. Nothing that was uploaded or made remains."""
    host = f"[{place.host}]" if ":" in place.host else place.host
    port = listening.getsockname()[1]
    if not place.is_private:
        logger.warning(
            "listening on %s: everybody who reaches this port can use the app, without a password and without "
            "encryption; leave out --host to serve this machine alone", place.host,
        )  # fmt: skip
    service = Service(models, limits)
    logger.info("uploads and results live in %s until the app ends", service.folder.path)
    logger.info("open http://%s:%d/ in a browser; Ctrl-C ends the app", host, port)
    names = {*place.names, *(() if place.is_private else (place.host,))}
    config = uvicorn.Config(
        build_app(service, names), log_config=None, access_log=False, server_header=False, proxy_headers=False,
        ws="none", timeout_graceful_shutdown=GRACE,
    )  # fmt: skip
    # The server ends in order at a signal and then passes it on, which would end the process before the folder is gone.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        raise Interrupted("the app has ended; uploads and results are removed") from None
    finally:
        signal.signal(signal.SIGTERM, before)
        service.close()
