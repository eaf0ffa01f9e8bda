"""tessera-app as a process: the port, signals, what remains."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from codes import app as command
from codes.inference.app.server import Place
from codes.utils.errors import EXIT_INTERRUPTED, EXIT_USAGE, ConfigError

ROOT = Path(__file__).resolve().parents[3]


def test_a_port_in_use_is_one_line_and_exit_code_2_before_any_network_is_loaded(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert command.main(["--port", str(port), "--weights", "no such file"]) == EXIT_USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot listen on 127.0.0.1, port {port}" in line
    assert "choose another --port" in line


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--port", "70000"], "0 to 65535"), (["--host", "256.1.1.1", "--port", "0"], "cannot listen on 256.1.1.1"),
        (["--port", "0", "--weights", "nothing.safetensors"], "no such file nothing.safetensors"),
        (["--port", "0", "--device", "abacus"], "device"), (["--max_megapixels", "0"], "--max_megapixels"),
        (["--max_megabytes", "nan"], "--max_megabytes"), (["--max_photographs", "-1"], "--max_photographs"),
        (["--max_result_megapixels", "0"], "--max_result_megapixels"),
        (["--port", "0", "--fast_weights", "tessera-photo-strengths"], "takes"),
        (["--port", "0", "--estimator", "tessera-photo-2x"], "estimates no strengths"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_and_exit_code_2(capsys, arguments, word):
    assert command.main(arguments) == EXIT_USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert word in line


def test_without_its_packages_the_app_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "codes.inference.app.server", raising=False)
    assert command.main(["--port", "0"]) == EXIT_USAGE
    assert "pip install" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "private"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_this_machine_alone_is_asked_only_by_itself(host, private):
    assert Place(host).is_private is private


def test_a_port_that_is_free_is_chosen_for_0():
    with Place(port=0).listen() as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
        with pytest.raises(ConfigError):
            Place(port=listening.getsockname()[1]).listen()


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_a_signal_ends_the_app_and_nothing_remains(tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    arguments = [sys.executable, str(ROOT / "codes/app.py"), "--port", "0", "--host", "0.0.0.0"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment) as process:
        lines = []
        while not (found := re.search(r"open http://0\.0\.0\.0:(\d+)/", lines[-1] if lines else "")):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        assert any("without a password" in line for line in lines)
        with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/") as answer:
            assert b"Drop photographs here" in answer.read()
        assert [path.name[:12] for path in tmp_path.iterdir()] == ["tessera-app-"]
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(30) == EXIT_INTERRUPTED
    assert "uploads and results are removed" in rest
    assert [*tmp_path.iterdir()] == []
