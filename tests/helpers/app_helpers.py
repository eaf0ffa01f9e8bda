"""The app with a small network, asked as its own page asks it."""

import io
import time
from functools import cache
from urllib.parse import quote

import numpy as np
from PIL import Image
from restorer_helpers import PROCESS, network, picture
from starlette.testclient import TestClient

from codes.inference.app.folder import ProcessFolder
from codes.inference.app.models import Models
from codes.inference.app.routes import build_app
from codes.inference.app.service import Service
from codes.inference.app.settings import Limits
from codes.inference.restorer import Restorer

HOST = "127.0.0.1:7860"
ORIGIN = f"http://{HOST}"
DIALS = {"strengths": {"jpeg": 0.2, "gaussian_blur": 0.5}, "steps": 1, "temperature": 0.15, "seed": 3}
BUSY = ("reading", "waiting", "running")


@cache
def models():
    known = {"scale": 2, "corruptions": ["jpeg", "gaussian_blur"]}
    return Models(*(Restorer(network(), PROCESS, device="cpu", **known) for _ in range(2)))


def service(tmp_path, limits=None):
    return Service(models(), limits or Limits(free_bytes=0), ProcessFolder(tmp_path))


def browser(app, host=HOST):
    """A client with cookies of its own that behaves as the page does, and has opened it."""
    client = TestClient(app, base_url=f"http://{host}", headers={"origin": f"http://{host}"})
    assert client.get("/").status_code == 200
    return client


def started(app_service, *hosts):
    """The application, whose worker runs while it is a context."""
    return TestClient(build_app(app_service, hosts), base_url=ORIGIN, headers={"origin": ORIGIN})


def encoded(array, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def photograph(height=18, width=27, seed=0, kind="PNG", **options):
    return encoded(picture(height, width, seed=seed), kind, **options)


def upload(client, data, name="photo.png"):
    """The id of an upload that was taken."""
    answer = send(client, data, name)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def send(client, data, name="photo.png"):
    return client.post("/api/photographs", content=data, headers={"x-file-name": quote(name)})


def states(client):
    return {one["id"]: one for one in client.get("/api/state").json()["photographs"]}


def settled(client, key, seconds=60.0):
    """What the page is told of a photograph once nothing is being done to it."""
    end = time.monotonic() + seconds
    while (told := states(client)[key])["state"] in BUSY:
        assert time.monotonic() < end, told
        time.sleep(0.01)
    return told


def restored(client, data, name="photo.png", **dials):
    """The id of an upload that was restored."""
    key = upload(client, data, name)
    assert settled(client, key)["state"] == "ready"
    answer = client.post(f"/api/photographs/{key}/restore", json={**DIALS, **dials})
    assert answer.status_code == 202, answer.text
    told = settled(client, key)
    assert told["state"] == "done", told
    return key


def opened(answer):
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content))


def pixels(answer):
    return np.asarray(opened(answer))
