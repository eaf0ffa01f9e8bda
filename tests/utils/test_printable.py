"""File names cannot forge lines or move the cursor."""

import io
import logging
import sys
from pathlib import Path

from codes.utils.console import get_logger, log_to_file, setup_logging, stop_logging_to
from codes.utils.errors import ConfigError, DataError, reason_of
from codes.utils.printable import printable

EVIL = "a\n12:00:00 I done: 99 images restored\x1b[2J\r\u202egnp.jpg\udce9"
SHOWN = r"a\n12:00:00 I done: 99 images restored\x1b[2J\r\u202egnp.jpg\udce9"


def test_only_what_is_not_printable_is_written_out():
    assert printable(EVIL) == SHOWN
    assert printable("写真 😀 👩\u200d🚀 é %s {x} $HOME \\ <b>") == "写真 😀 👩\u200d🚀 é %s {x} $HOME \\ <b>"
    assert printable(printable(EVIL)) == SHOWN


def test_a_name_stays_one_line_on_the_console_and_in_the_file(tmp_path, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    setup_logging()
    handler = log_to_file(tmp_path / "test.log")
    try:
        get_logger("codes.x").warning("%s: is damaged", Path(EVIL))
        get_logger("codes.x").warning(f"{EVIL}: is damaged")
    finally:
        stop_logging_to(handler)
        logging.getLogger("tessera").handlers.clear()
    for text in (stream.getvalue(), (tmp_path / "test.log").read_text()):
        assert len(text.splitlines()) == 2
        assert all(line.endswith(f"{SHOWN}: is damaged") for line in text.splitlines())


def test_errors_are_one_line_and_the_name_comes_off_again():
    error = DataError(f"{EVIL}: not an image file")
    assert str(error) == f"{SHOWN}: not an image file"
    assert reason_of(error, Path(EVIL)) == "not an image file"
    assert reason_of(OSError("odd"), Path(EVIL)) == "odd"
    assert str(ConfigError(f"{EVIL}: twice")) == f"{SHOWN}: twice"
    assert str(ConfigError("a.yml:1: x\na.yml:2: y", issues=["x", "y"])) == "a.yml:1: x\na.yml:2: y"
