"""The app over HTTP, with a small network: from an upload to a download."""

import asyncio
import io
import threading
import zipfile

import numpy as np
import pytest
from app_helpers import (
    DIALS,
    HOST,
    ORIGIN,
    browser,
    encoded,
    models,
    opened,
    photograph,
    pixels,
    restored,
    send,
    service,
    settled,
    states,
    upload,
)
from app_helpers import started as app_of
from PIL import Image, ImageCms
from restorer_helpers import picture

from codes.images.files import quantise, read_image, resize_bicubic, to_float
from codes.images.search import EXTENSIONS
from codes.inference.app.folder import ProcessFolder
from codes.inference.app.jobs import Kind, QueuedJob
from codes.inference.app.photograph import TAKEN
from codes.inference.app.region import REGION
from codes.inference.app.routes import build_app
from codes.inference.app.settings import Dials, Limits, PreviewChoice
from codes.inference.restorer import Restorer

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MAKER = 0x010F


@pytest.fixture
def app_service(tmp_path):
    return service(tmp_path)


@pytest.fixture
def page(app_service):
    with app_of(app_service) as client:
        assert client.get("/").status_code == 200
        yield client


def test_an_upload_is_read_and_its_jpeg_strength_comes_from_its_tables(page):
    weak, strong = (upload(page, photograph(40, 56, kind="JPEG", quality=quality)) for quality in (95, 12))
    told = [settled(page, key) for key in (weak, strong)]
    assert [(one["width"], one["height"], one["format"], one["bits"]) for one in told] == [(56, 40, "JPEG", 8)] * 2
    assert [one["state"] for one in told] == ["ready", "ready"]
    assert told[0]["strengths"]["jpeg"]["value"] < 0.1
    assert told[1]["strengths"]["jpeg"]["value"] > 0.8
    assert "tables" in told[1]["strengths"]["jpeg"]["reason"]
    assert told[0]["strengths"]["gaussian_blur"] == {
        "value": 0.0, "reason": "cannot be read from a photograph", "sure": False,
    }  # fmt: skip
    assert opened(page.get(f"/api/photographs/{weak}/thumbnail")).size == (56, 40)


def test_the_result_is_what_the_library_makes_of_the_file(page, tmp_path):
    data = photograph()
    key = restored(page, data)
    file = tmp_path / "same.png"
    file.write_bytes(data)
    expected = models().fast(Image.open(file), DIALS["strengths"], steps=1, temperature=0.15, seed=3)
    assert np.array_equal(pixels(page.get(f"/api/photographs/{key}/result")), np.asarray(expected))
    told = states(page)[key]["result"]
    assert (told["width"], told["height"]) == (54, 36)
    assert told["dials"] == Dials(**DIALS).model_dump()


def test_the_dials_reach_the_network(page):
    data = photograph()
    results = [
        pixels(page.get(f"/api/photographs/{restored(page, data, **dials)}/result"))
        for dials in ({}, {"seed": 4}, {"temperature": 1.0}, {"strengths": {"jpeg": 1.0}}, {"steps": 4}, {"steps": 8})
    ]
    assert len({result.tobytes() for result in results}) == len(results)


def test_one_step_is_the_students_and_more_are_the_other_networks(tmp_path, monkeypatch):
    app_service, called = service(tmp_path), []
    original = Restorer.__call__

    def noting(self, image, *arguments, **options):
        called.append((self is app_service.models.fast, options["steps"]))
        return original(self, image, *arguments, **options)

    monkeypatch.setattr(Restorer, "__call__", noting)
    with app_of(app_service) as page:
        page.get("/")
        for steps in (1, 4, 8):
            restored(page, photograph(), steps=steps)
    assert called == [(True, 1), (False, 4), (False, 8)]


def test_exif_and_profile_are_kept_in_every_format(page):
    exif = Image.Exif()
    exif[MAKER], exif[0x0112] = "A camera", 6
    data = photograph(20, 32, kind="JPEG", quality=90, exif=exif, icc_profile=SRGB)
    key = restored(page, data, "holiday.jpg")
    assert states(page)[key]["result"]["formats"][0] == "jpeg"
    names = {"same": "jpg", "jpeg": "jpg", "png": "png", "webp": "webp", "tiff": "tif"}
    for wanted, suffix in names.items():
        answer = page.get(f"/api/photographs/{key}/result?format={wanted}")
        result = opened(answer)
        assert result.size == (40, 64)  # upright, twice as large
        assert result.getexif()[MAKER] == "A camera"
        assert result.getexif().get(0x0112, 1) == 1
        assert result.info["icc_profile"]
        assert answer.headers["content-disposition"] == f'attachment; filename="holiday_restored.{suffix}"'


def test_sixteen_bits_stay_sixteen_bits(page, tmp_path):
    import cv2

    deep = (picture().astype(np.uint16) * 257) ^ 0x55
    data = cv2.imencode(".png", deep)[1].tobytes()
    key = restored(page, data, steps=8)
    assert states(page)[key]["bits"] == 16
    for wanted in ("png", "tiff"):
        file = tmp_path / f"result.{wanted}"
        file.write_bytes(page.get(f"/api/photographs/{key}/result?format={wanted}").content)
        result = read_image(file)
        assert result.bit_depth == 16
        samples = np.rint(result.rgb * 65535)
        assert np.count_nonzero(samples % 257) > 100  # what 8 bits would not hold


def test_gray_and_transparency_are_kept_and_jpeg_is_not_offered_for_the_latter(page):
    gray = restored(page, encoded(picture()[..., 0]))
    assert opened(page.get(f"/api/photographs/{gray}/result")).mode == "L"
    clear = restored(page, encoded(picture(channels=4)))
    assert opened(page.get(f"/api/photographs/{clear}/result")).mode == "RGBA"
    assert "jpeg" not in states(page)[clear]["result"]["formats"]
    answer = page.get(f"/api/photographs/{clear}/result?format=jpeg")
    assert answer.status_code == 400
    assert "choose one of" in answer.json()["message"]


@pytest.mark.parametrize("steps", [1, 8])
def test_a_preview_is_a_square_of_the_result_beside_the_input(page, steps):
    key = upload(page, photograph(200, 240))
    settled(page, key)
    answer = page.post(f"/api/photographs/{key}/preview", json={**DIALS, "steps": steps, "x": 0, "y": 190})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["width"], told["height"]) == (REGION, REGION)
    before, after = (pixels(page.get(f"/{url}")) for url in told["views"][0]["layers"].values())
    assert before.shape == after.shape == (REGION, REGION, 3)
    whole = quantise(resize_bicubic(to_float(picture(200, 240)), 400, 480))
    assert np.array_equal(before, whole[144:400, 0:256])
    assert not np.array_equal(before, after)


def test_a_preview_of_a_photograph_smaller_than_the_region_is_all_of_it(page):
    key = upload(page, photograph(1, 3))
    settled(page, key)
    told = page.post(f"/api/photographs/{key}/preview", json={**DIALS, "x": 0, "y": 0}).json()
    assert (told["width"], told["height"]) == (6, 2)


def test_what_is_compared_is_the_input_and_the_result(page):
    key = restored(page, photograph())
    (view,) = states(page)[key]["result"]["views"]
    assert (view["width"], view["height"]) == (54, 36)
    pictures = {label: pixels(page.get(f"/{url}")) for label, url in view["layers"].items()}
    assert [*pictures] == ["input (bicubic)", "restored"]
    assert np.array_equal(pictures["restored"], pixels(page.get(f"/api/photographs/{key}/result")))


def test_a_photograph_restored_again_has_the_new_result_in_every_format(page):
    key = restored(page, photograph())
    first = page.get(f"/api/photographs/{key}/result?format=tiff").content
    page.post(f"/api/photographs/{key}/restore", json={**DIALS, "seed": 9})
    settled(page, key)
    assert page.get(f"/api/photographs/{key}/result?format=tiff").content != first
    views = states(page)[key]["result"]["views"]
    assert all(page.get(f"/{url}").status_code == 200 for url in views[0]["layers"].values())


def test_all_results_come_as_one_archive_whose_names_are_plain_and_differ(page):
    for name in ("a.png", "../../a.png", "A.PNG", "<b>\n.png"):
        restored(page, photograph(), name)
    upload(page, photograph(), "not restored.png")
    answer = page.get("/api/results.zip?format=webp")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
    assert names == [
        "a_restored.webp", "a_restored_2.webp", "A_restored_3.webp", "_b___restored.webp",
    ]  # fmt: skip


def test_the_archive_leaves_no_file_behind(page, app_service):
    restored(page, photograph())
    page.get("/api/results.zip")
    assert [*app_service.folder.path.glob("*.zip")] == []
    assert page.get("/api/results.zip?format=odd").status_code == 200  # each in a format that it can have


@pytest.mark.parametrize(
    ("data", "word"),
    [(b"not an image", "not an image file"), (photograph()[:60], "damaged"), (b"\x89PNG\r\n\x1a\n" + bytes(40), "PNG")],
)
def test_a_damaged_upload_is_a_message_and_ends_nothing(page, data, word):
    key = upload(page, data, "<b>.png")
    told = settled(page, key)
    assert told["state"] == "damaged"
    assert word in told["message"]
    assert "/" not in told["message"].replace("image/", "")  # no path of the server
    assert page.post(f"/api/photographs/{key}/restore", json=DIALS).status_code == 409
    assert page.post(f"/api/photographs/{key}/preview", json={**DIALS, "x": 0, "y": 0}).status_code == 409
    assert settled(page, restored(page, photograph()))["state"] == "done"


def test_what_pillow_gives_to_other_programs_is_refused_before_it_is_decoded(page):
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    told = settled(page, upload(page, postscript, "photo.png"))
    assert (told["state"], told["message"]) == ("damaged", "EPS is not taken; save it as PNG, TIFF or JPEG")


def test_every_format_that_is_read_has_the_name_that_uploads_are_taken_by():
    for suffix in EXTENSIONS:
        if suffix not in (".hif", ".jfif"):
            Image.init()
            assert Image.EXTENSION[suffix] in TAKEN, suffix


def test_an_animation_is_its_first_frame_and_says_so(page):
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    key = restored(page, buffer.getvalue(), "moving.gif")
    assert states(page)[key]["notes"] == ["3 frames or pages; the first one is restored"]
    assert opened(page.get(f"/api/photographs/{key}/result")).format == "PNG"


def test_inks_and_phone_pictures_are_restored(page):
    inks = io.BytesIO()
    Image.fromarray(picture()).convert("CMYK").save(inks, "JPEG")
    pytest.importorskip("pillow_heif")
    phone = io.BytesIO()
    Image.fromarray(picture(32, 48)).save(phone, "HEIF")
    for data, size in ((inks.getvalue(), (54, 36)), (phone.getvalue(), (96, 64))):
        assert opened(page.get(f"/api/photographs/{restored(page, data)}/result?format=png")).size == size


def test_names_are_told_as_text_and_never_become_paths(page, app_service):
    name = "../../../tmp/x\r\nSet-Cookie: a=b\0<img src=x onerror=alert(1)>.png"
    key = restored(page, photograph(), name)
    assert states(page)[key]["name"] == name.replace("\r", "\\r").replace("\n", "\\n").replace("\0", "\\x00")
    answer = page.get(f"/api/photographs/{key}/result")
    assert "\r" not in answer.headers["content-disposition"]
    assert "set-cookie" not in answer.headers
    assert "<img src=x" not in page.get("/").text
    inside = {path.name for path in app_service.folder.path.rglob("*")}
    assert not any("x" in name and "onerror" in name for name in inside)
    assert {path.name for path in app_service.folder.path.iterdir()} == {"lock", key}


def test_removing_a_photograph_removes_its_files(page, app_service):
    key = restored(page, photograph())
    assert page.delete(f"/api/photographs/{key}").status_code == 204
    assert states(page) == {}
    assert [path.name for path in app_service.folder.path.iterdir()] == ["lock"]
    assert page.get(f"/api/photographs/{key}/result").status_code == 404


def test_at_the_end_nothing_remains(tmp_path):
    app_service = service(tmp_path)
    with app_of(app_service) as client:
        client.get("/")
        restored(client, photograph())
    assert [*tmp_path.iterdir()] == []


def test_limits_hold_while_the_bytes_arrive(tmp_path):
    limits = Limits(file_bytes=1000, pixels=500, photographs=2, free_bytes=0)
    app_service = service(tmp_path, limits)
    with app_of(app_service) as page:
        page.get("/")
        assert send(page, b"x" * 1001).status_code == 413
        assert send(page, b"").status_code == 400
        assert [path.name for path in app_service.folder.path.iterdir()] == ["lock"]
        large = upload(page, encoded(np.zeros((30, 30, 3), np.uint8)))
        assert (
            settled(page, large)["message"] == "30 × 30 pixels are more than 0.0005 megapixels, the limit of this app"
        )
        upload(page, encoded(np.zeros((3, 3, 3), np.uint8)))
        full = send(page, encoded(np.zeros((3, 3, 3), np.uint8)))
        assert (full.status_code, "2 photographs" in full.json()["message"]) == (409, True)


def test_an_upload_without_an_end_is_refused_at_the_limit(tmp_path):
    app_service, pieces, answers = service(tmp_path, Limits(file_bytes=1000, free_bytes=0)), [], []
    cookie = f"tessera_7860={app_service.new_session().id}".encode()
    scope = {
        "type": "http", "method": "POST", "path": "/api/photographs", "query_string": b"", "scheme": "http",
        "headers": [(b"host", HOST.encode()), (b"origin", ORIGIN.encode()), (b"cookie", cookie)],
    }  # fmt: skip

    async def receive():
        pieces.append(100)
        return {"type": "http.request", "body": b"x" * 100, "more_body": True}

    async def answer(message):
        answers.append(message)

    asyncio.run(build_app(app_service)(scope, receive, answer))
    assert (answers[0]["status"], len(pieces)) == (413, 11)
    assert [path.name for path in app_service.folder.path.iterdir()] == ["lock"]
    app_service.close()


def test_an_upload_that_is_cut_off_leaves_nothing(tmp_path):
    app_service, sent = service(tmp_path), [b"x" * 100]
    cookie = f"tessera_7860={app_service.new_session().id}".encode()
    scope = {
        "type": "http", "method": "POST", "path": "/api/photographs", "query_string": b"", "scheme": "http",
        "headers": [(b"host", HOST.encode()), (b"origin", ORIGIN.encode()), (b"cookie", cookie)],
    }  # fmt: skip

    async def receive():
        if sent:
            return {"type": "http.request", "body": sent.pop(), "more_body": True}
        return {"type": "http.disconnect"}

    async def answer(_):
        pass

    asyncio.run(build_app(app_service)(scope, receive, answer))
    assert [path.name for path in app_service.folder.path.iterdir()] == ["lock"]
    session = next(iter(app_service._sessions.values()))
    assert (session.arriving, session.photographs) == (0, {})
    app_service.close()


def test_a_full_disk_is_a_message(tmp_path):
    with app_of(service(tmp_path, Limits(free_bytes=2**60))) as page:
        page.get("/")
        answer = send(page, photograph())
    assert answer.status_code == 507
    assert "disk" in answer.json()["message"]


def test_a_photograph_that_is_being_restored_is_not_put_in_the_queue_twice(page, app_service):
    key = upload(page, photograph(64, 64))
    settled(page, key)
    app_service.worker.submit(_blocking()[0])
    assert page.post(f"/api/photographs/{key}/restore", json=DIALS).status_code == 202
    assert page.post(f"/api/photographs/{key}/restore", json=DIALS).status_code == 409
    page.post(f"/api/photographs/{key}/cancel")


def test_wrong_requests_are_refused_with_words(page):
    key = upload(page, photograph())
    settled(page, key)
    unknown = page.post(f"/api/photographs/{key}/restore", json={**DIALS, "strengths": {"fog": 0.5}})
    assert (unknown.status_code, "no corruption fog" in unknown.json()["message"]) == (400, True)
    assert page.post(f"/api/photographs/{key}/restore", content=b"x" * 100_000).status_code == 413
    assert page.post("/api/photographs/none/restore", json=DIALS).status_code == 404
    assert page.get(f"/api/photographs/{key}/result").status_code == 404
    assert page.get("/api/results.zip").status_code == 404
    assert page.get("/nothing").json() == {"message": "Not Found"}
    assert page.put("/api/state").status_code == 405


def _blocking():
    """A restoration of somebody that lasts until it is let go or cancelled."""
    go = threading.Event()

    def work(progress):
        while not go.wait(0.005):
            progress(1, 2)

    return QueuedJob("somebody", Kind.RESTORE, work), go


def test_restorations_of_two_browsers_take_turns_and_tell_their_places(page, app_service):
    other = browser(page.app)
    mine = [upload(page, photograph(seed=seed)) for seed in range(3)]
    theirs = upload(other, photograph(seed=9))
    for client, key in [*((page, key) for key in mine), (other, theirs)]:
        settled(client, key)
    job, go = _blocking()
    app_service.worker.submit(job)
    while job.started is None:
        pass
    for key in mine:
        page.post(f"/api/photographs/{key}/restore", json=DIALS)
    other.post(f"/api/photographs/{theirs}/restore", json=DIALS)
    assert [states(page)[key]["position"] for key in mine] == [1, 3, 4]
    assert states(other)[theirs]["position"] == 2
    preview = other.post(f"/api/photographs/{theirs}/preview", json={**DIALS, "x": 0, "y": 0})
    assert preview.status_code == 200  # while the other one runs
    page.post(f"/api/photographs/{mine[0]}/cancel")
    assert states(page)[mine[0]]["state"] == "ready"
    go.set()
    assert settled(other, theirs)["state"] == "done"
    assert [settled(page, key)["state"] for key in mine] == ["ready", "done", "done"]


def test_cancelling_and_removing_end_a_restoration_between_two_tiles(page, app_service):
    key = upload(page, photograph(400, 400))
    settled(page, key)
    for end in (lambda: page.post(f"/api/photographs/{key}/cancel"), lambda: page.delete(f"/api/photographs/{key}")):
        page.post(f"/api/photographs/{key}/restore", json={**DIALS, "steps": 8, "tile": 64})
        while states(page)[key].get("share", 0) == 0:
            assert states(page)[key]["state"] in ("waiting", "running")
        assert states(page)[key]["remaining"] > 0
        assert end().status_code in (202, 204)
        if key in states(page):
            assert settled(page, key)["state"] == "ready"
    after = restored(page, photograph())  # the worker has come to the next one
    assert {path.name for path in app_service.folder.path.iterdir()} == {"lock", after}


def test_a_new_preview_takes_the_place_of_one_that_is_not_made_yet(page, app_service, monkeypatch):
    key = upload(page, photograph(64, 64))
    settled(page, key)
    job, go = _blocking()
    monkeypatch.setattr(app_service.worker, "_between", lambda *_: None)  # nothing passes while it runs
    app_service.worker.submit(job)
    session = next(one for one in app_service._sessions.values() if key in one.photographs)
    choice = PreviewChoice(**DIALS, x=0, y=0)
    first = app_service.preview(session, session.photographs[key], choice)
    second = app_service.preview(session, session.photographs[key], choice)
    go.set()
    assert second.future.result(60).size == (128, 128)
    assert first.future.cancelled()


def test_sessions_that_are_not_heard_of_are_forgotten_with_their_files(tmp_path):
    app_service = service(tmp_path, Limits(free_bytes=0, forget=0.0))
    with app_of(app_service) as page:
        page.get("/")
        key = upload(page, photograph())
        settled(page, key)
        app_service.forget()
        assert [path.name for path in app_service.folder.path.iterdir()] == ["lock"]
        answer = page.get("/api/state")
    assert (answer.status_code, "load it again" in answer.json()["message"]) == (401, True)


def test_there_is_room_for_a_new_browser_where_an_idle_one_holds_nothing(tmp_path):
    with app_of(service(tmp_path, Limits(free_bytes=0, sessions=2))) as page:
        first, second = browser(page.app), browser(page.app)
        upload(second, photograph())
        third = browser(page.app)  # takes the place of the first one
        assert first.get("/api/state").status_code == 401
        upload(third, photograph())
        refused = page.get("/")
    assert (refused.status_code, "too many" in refused.json()["message"]) == (503, True)


def test_the_folder_is_where_the_service_was_told(tmp_path):
    folder = ProcessFolder(tmp_path)
    assert folder.path.parent == tmp_path
    folder.close()
