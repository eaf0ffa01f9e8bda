"""Who may ask the app, and what a browser may do with its answers."""

import re

import pytest
from app_helpers import HOST, ORIGIN, browser, photograph, restored, service, states, upload
from app_helpers import started as app_of

from codes.viewer.templates import asset


@pytest.fixture
def page(tmp_path):
    with app_of(service(tmp_path), "photos.example") as client:
        assert client.get("/").status_code == 200
        yield client


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:7860", "localhost", "localhost:1", "[::1]:7860", "192.168.0.7:80", "photos.example", "LOCALHOST"],
)
def test_addresses_and_known_names_are_answered(page, host):
    assert page.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example", "", "photos.example.evil",
     "127.0.0.1@evil.example", "evil.example#127.0.0.1", "[::1", "a b"],
)  # fmt: skip
def test_names_that_somebody_may_point_here_are_refused(page, host):
    for path in ("/", "/api/state"):
        answer = page.get(path, headers={"host": host})
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "origin",
    [None, "null", "http://evil.example", "http://127.0.0.1:7861", f"http://{HOST}.evil.example", "http://127.0.0.1"],
)
def test_only_the_page_itself_may_change_anything(page, origin):
    key = upload(page, photograph())
    headers = {"origin": "" if origin is None else origin}
    for method, path in [
        ("POST", "/api/photographs"), ("DELETE", f"/api/photographs/{key}"),
        *[("POST", f"/api/photographs/{key}/{action}") for action in ("restore", "preview", "cancel")],
    ]:  # fmt: skip
        assert page.request(method, path, headers=headers, content=b"{}").status_code == 403
    assert [*states(page)] == [key]


def test_a_browser_that_says_the_request_is_another_sites_is_believed(page):
    answer = page.post("/api/photographs", content=photograph(), headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 403
    assert page.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200  # a link leads here


def test_one_browser_sees_nothing_of_another(page):
    key = restored(page, photograph())
    view = next(iter(states(page)[key]["result"]["views"][0]["layers"].values()))
    other = browser(page.app)
    assert states(other) == {}
    for path in (f"api/photographs/{key}/result", f"api/photographs/{key}/thumbnail", view):
        assert page.get(f"/{path}").status_code == 200
        assert other.get(f"/{path}").status_code == 404
    assert other.delete(f"/api/photographs/{key}").status_code == 404
    assert other.post(f"/api/photographs/{key}/cancel").status_code == 404
    assert other.get("/api/results.zip").status_code == 404
    assert [*states(page)] == [key]


def test_without_a_session_or_with_a_guessed_one_there_is_no_answer(page):
    name = next(iter(page.cookies))
    for cookie in ({}, {name: ""}, {name: "x" * 43}):
        page.cookies.clear()
        page.cookies.update(cookie)
        assert page.get("/api/state").status_code == 401
        assert page.post("/api/photographs", content=b"x").status_code == 401


def test_session_keys_are_long_differ_and_stay_out_of_scripts_and_other_sites(page):
    keys = set()
    for _ in range(3):
        page.cookies.clear()
        given = page.get("/").headers["set-cookie"]
        keys.add(re.match(r"tessera_7860=([\w-]+);", given)[1])
        assert "HttpOnly" in given
        assert "SameSite=strict" in given
    assert len(keys) == 3
    assert min(map(len, keys)) >= 43
    assert "set-cookie" not in page.get("/").headers  # a session that is known stays


def test_every_answer_forbids_what_it_does_not_need(page):
    key = restored(page, photograph())
    for path, status in [("/", 200), ("/api/state", 200), (f"/api/photographs/{key}/result", 200), ("/x", 404)]:
        answer = page.get(path)
        assert answer.status_code == status
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"


def test_the_page_asks_for_nothing_but_the_app(page):
    text = page.get("/").text
    assert not re.search(r"(?:src|href|action)=[\"']?(?:https?:)?//", text)
    assert not re.search(r"\son\w+=", text.split("<script>")[0])  # no handlers in the markup
    assert 'style="' not in text
    policy = page.get("/").headers["content-security-policy"]
    assert "connect-src 'self'" in policy
    assert re.search(r"script-src 'sha256-[^']+'", policy)
    assert asset("app.js").splitlines()[0] in text


@pytest.mark.parametrize(
    "name", ["..%2Fupload", "%2e%2e%2fupload", "upload", "..", ".hidden", "%00", "preview0-1.webp"]
)
def test_only_pictures_of_the_viewer_are_given(page, name):
    key = upload(page, photograph())
    assert page.get(f"/api/photographs/{key}/view/{name}").status_code in (404, 405)
    assert page.get(f"/api/photographs/..%2F{key}/thumbnail").status_code == 404
    assert page.headers["origin"] == ORIGIN
