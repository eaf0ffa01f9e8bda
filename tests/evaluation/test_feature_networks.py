import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluator_helpers import ForDistance, ForFeatures, ForLpips, Plain, scripted

from codes.evaluation import blocks
from codes.evaluation.evaluators.feature_networks import (
    KNOWN,
    FeatureNetwork,
    FeatureNetworkOptions,
    Remote,
    cached_file,
)
from codes.utils.errors import ConfigError


def network(path: Path | str, *, lpips: bool = False, **options: str) -> FeatureNetwork:
    chosen = FeatureNetworkOptions.model_validate({"network": str(path), **options})
    return FeatureNetwork(chosen, "feature_network", lpips=lpips)


def pictures(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 20, 24, 3), dtype=np.uint8)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_network_as_nvidia_publishes_it_is_given_whole_pixels_and_asked_for_features(tmp_path: Path) -> None:
    stylegan = network(scripted(tmp_path / "f.pt", ForFeatures()))
    assert stylegan.kind == "stylegan"
    images = pictures()
    features = stylegan.features(images)
    assert features.shape == (3, 6)
    assert np.allclose(features[:, :3], images.mean(axis=(1, 2)), atol=1e-3)


def test_any_other_network_is_given_images_in_minus_one_to_one(tmp_path: Path) -> None:
    plain = network(scripted(tmp_path / "f.pt", Plain()))
    assert plain.kind == "plain"
    images = pictures()
    assert np.allclose(plain.features(images), images.mean(axis=(1, 2)) / 127.5 - 1, atol=1e-5)
    with plain.on(torch.device("cpu")):
        assert plain.features(images).dtype == np.float32


def test_lpips_by_features_and_by_pairs(tmp_path: Path) -> None:
    a, b = pictures(2)
    means = a.mean(axis=(0, 1)), b.mean(axis=(0, 1))
    by_features = network(scripted(tmp_path / "a.pt", ForLpips()), lpips=True)
    by_pairs = network(scripted(tmp_path / "b.pt", ForDistance()), lpips=True)
    assert (by_features.kind, by_pairs.kind) == ("stylegan", "pair")
    assert by_features.distance(a, b) == pytest.approx(np.square((means[0] - means[1]) / 255).sum(), rel=1e-4)
    assert by_pairs.distance(a, b) == pytest.approx(np.abs(a / 127.5 - b / 127.5).mean(), rel=1e-5)
    assert by_features.distance(a, a) == by_pairs.distance(b, b) == 0


def test_a_large_image_is_compared_in_blocks_that_share_it_evenly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lpips = network(scripted(tmp_path / "b.pt", ForDistance()), lpips=True)
    a, b = np.random.default_rng(0).integers(0, 256, (2, 45, 70, 3), dtype=np.uint8)
    whole = lpips.distance(a, b)
    monkeypatch.setattr(blocks, "BLOCK_SIDE", 16)
    assert lpips.distance(a, b) == pytest.approx(whole, rel=1e-5)


def test_files_that_are_no_network_are_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(ConfigError, match=r"feature_network: .*text\.pt is no TorchScript network \(damaged\?\)"):
        network(tmp_path / "text.pt")
    (tmp_path / "n.pkl").write_bytes(b"\x80\x04")
    with pytest.raises(ConfigError, match=r"a \.pkl holds a pickle"):
        network(tmp_path / "n.pkl")
    with pytest.raises(ConfigError, match=r"no such file .*gone\.pt.*inception"):
        network(tmp_path / "gone.pt")
    file = scripted(tmp_path / "f.pt", Plain())
    with pytest.raises(ConfigError, match=f"has SHA-256 {sha256(file)}, expected 0{{64}}"):
        network(file, sha256="0" * 64)
    assert network(file, sha256=sha256(file)).kind == "plain"


def test_a_network_that_cannot_be_called_as_its_kind_is_refused_at_the_start(tmp_path: Path) -> None:
    file = scripted(tmp_path / "f.pt", Plain())
    with pytest.raises(ConfigError, match="cannot be called as a network of kind stylegan"):
        network(file, kind="stylegan")
    with pytest.raises(ConfigError, match="cannot be called as a network of kind pair"):
        network(file, kind="pair", lpips=True)


def test_the_problems_of_options_are_known_before_anything_is_downloaded(tmp_path: Path) -> None:
    def problems(**options: str) -> list[tuple[tuple[str | int, ...], str]]:
        return [(issue.path, issue.message) for issue in FeatureNetworkOptions.model_validate(options).problems()]

    assert problems(network="inception") == []
    assert problems(network="https://example.org/n.pt", sha256="a" * 64) == []
    [(path, message)] = problems(network="https://example.org/n.pt")
    assert path == ("sha256",)
    assert "missing" in message
    [(path, message)] = problems(network=str(tmp_path / "gone.pt"), kind="plain")
    assert path == ("network",)
    assert "no such file" in message
    assert FeatureNetworkOptions.model_validate("inception") == FeatureNetworkOptions(network="inception")


def test_known_networks_have_whole_hashes() -> None:
    assert set(KNOWN) == {"inception", "vgg16_lpips"}
    assert all(len(bytes.fromhex(remote.sha256)) == 32 for remote in KNOWN.values())


class Quiet(SimpleHTTPRequestHandler):
    requests: list[str]

    def log_message(self, *_: object) -> None:
        self.requests.append(self.path)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """An address of this machine that serves a folder, the requests it got, and a cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "served").mkdir()
    asked: list[str] = []
    handler = type("Handler", (Quiet,), {"requests": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path / "served"))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


def test_a_network_is_downloaded_once_and_checked_every_time(
    tmp_path: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = server
    file = scripted(tmp_path / "served" / "net.pt", Plain())
    remote = Remote(f"{address}/net.pt", sha256(file))
    first = network(remote.url, sha256=remote.sha256)
    assert first.file == cached_file(remote)
    assert first.file.is_relative_to(tmp_path / "cache")
    network(remote.url, sha256=remote.sha256)
    monkeypatch.setitem(KNOWN, "mine", remote)
    assert network("mine").file == first.file
    assert asked == ["/net.pt"]
    cached_file(remote).write_bytes(b"damaged")
    assert network("mine").kind == "plain"
    assert asked == ["/net.pt"] * 2


def test_a_download_with_another_hash_is_not_kept(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    file = scripted(tmp_path / "served" / "net.pt", Plain())
    with pytest.raises(ConfigError, match=f"has SHA-256 {sha256(file)}, expected b{{64}}; it is not used"):
        network(f"{server[0]}/net.pt", sha256="b" * 64)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_without_a_connection_the_error_says_where_to_put_the_file(
    server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"could not download .*gone\.pt.*[Nn]ot [Ff]ound.*name the file here"):
        network(f"{server[0]}/gone.pt", sha256="c" * 64)
    monkeypatch.setitem(KNOWN, "inception", Remote("http://127.0.0.1:9/inception.pt", "d" * 64))
    with pytest.raises(ConfigError, match=r"feature_network: could not download .*networks/d{12}-inception\.pt"):
        network("inception")
