"""docs/library.md: its code runs as it stands, in the order of the page."""

import http.client
import io
import re
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image
from restorer_helpers import KNOWN, network, picture, write_weights

from codes import Restorer, SamplingOptions

PAGE = Path(__file__).resolve().parents[1] / "docs" / "library.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """What the page's code leaves behind, and the folder it ran in."""
    folder = tmp_path_factory.mktemp("page")
    write_weights(folder / "restorer.safetensors", KNOWN)
    torch.save(network().state_dict(), folder / "weights.pth")
    Image.fromarray(picture(20, 28)).save(folder / "photo.jpg")
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 8
    left: dict = {"__name__": "page"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in blocks:
            # Installed the package is called tessera, in the checkout codes.
            exec(compile(re.sub(r"\bfrom tessera\b", "from codes", block), str(PAGE), "exec"), left)
    yield left, folder
    left["server"].server_close()


def test_the_notebook(page):
    left, folder = page
    with Image.open(folder / "photo_2x.png") as image:
        assert image.size == (56, 40)
    assert left["closest"].size == left["other"].size == (56, 40)
    assert left["thumbnail"].size == (48, 36)
    assert left["larger"].size == (42, 30)
    assert left["result"].shape == (40, 56, 3)
    assert isinstance(left["own"], Restorer)


def test_the_web_service(page):
    server = page[0]["server"]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        data = io.BytesIO()
        Image.fromarray(picture(9, 12)).save(data, "PNG")
        for body, status in ((data.getvalue(), 200), (b"no image", 400)):
            connection = http.client.HTTPConnection(*server.server_address, timeout=60)
            connection.request("POST", "/", body)
            answer = connection.getresponse()
            assert answer.status == status
            received = answer.read()
            connection.close()
            if status == 200:
                assert Image.open(io.BytesIO(received)).size == (24, 18)
            else:
                assert b"cannot identify image file" in received
    finally:
        server.shutdown()
        thread.join()


def test_the_node(page):
    node = page[0]["TesseraRestore"]()
    batch = torch.rand(2, 9, 11, 3, generator=torch.Generator().manual_seed(0))
    (restored,) = getattr(node, node.FUNCTION)(batch, 0.2, 0.5, 1)
    assert restored.shape == (2, 18, 22, 3)
    assert restored.dtype == torch.float32
    assert not torch.equal(restored[0], restored[1])
    assert set(node.INPUT_TYPES()["required"]) == {"image", "jpeg", "blur", "seed"}


def test_what_the_page_says_of_the_defaults(page):
    options = page[0]["restorer"].options
    assert options.tile_batch_size is None
    same = SamplingOptions(respaced_timestep_spacing="karras8", sampler="ddim", temperature=0.15)
    assert options.model_copy(update={"tile": None}).model_dump() == same.model_dump()
