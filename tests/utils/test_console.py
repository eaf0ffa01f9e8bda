"""The log and the progress lines, and the user's own files found and imported."""

import logging
import sys

import pytest

from codes.config.plugins import import_plugins
from codes.utils import console
from codes.utils.console import (
    StepLine,
    TrainingBar,
    format_seconds,
    get_logger,
    log_to_file,
    progress,
    setup_logging,
    stop_logging_to,
    warn_once,
)
from codes.utils.errors import ConfigError, DataError, Interrupted, TesseraError


@pytest.fixture
def said(capsys):
    """A function that gives everything that has gone to stderr so far."""
    parts = []

    def so_far():
        parts.append(capsys.readouterr().err)
        return "".join(parts)

    return so_far


@pytest.fixture
def clock(monkeypatch):
    """Time that moves by ten seconds at every look."""
    now = iter(range(0, 10**6, 10))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(now)))


def test_lines_have_time_level_and_message_and_go_to_stderr(said):
    setup_logging()
    get_logger("codes.trainer.x").info("100 %% of %s", "it")
    get_logger("x").debug("hidden")
    line = said()
    assert line.endswith(" I 100 % of it\n")
    assert line.count(":") == 2
    assert get_logger("codes.trainer.x") is get_logger("tessera.trainer.x")


def test_setting_up_twice_says_everything_once(said):
    setup_logging()
    setup_logging()
    get_logger("x").info("once")
    assert said().count("once") == 1


def test_debug_and_quiet(said):
    setup_logging(debug=True)
    get_logger("x").debug("seen")
    setup_logging(quiet=True)
    get_logger("x").info("hidden")
    get_logger("x").warning("told")
    text = said()
    assert "seen" in text
    assert "hidden" not in text
    assert "told" in text


def test_a_log_file_gets_the_lines_until_it_is_closed(said, tmp_path):
    setup_logging()
    handler = log_to_file(tmp_path / "new" / "run.log")
    get_logger("x").warning("inside 图 \udcff")
    stop_logging_to(handler)
    get_logger("x").warning("outside")
    text = (tmp_path / "new" / "run.log").read_text(encoding="utf-8")
    assert "WARNING inside 图 \\udcff" in text
    assert "outside" not in text
    assert "Logging error" not in said()


def test_a_log_file_on_a_full_disk_does_not_fill_the_terminal(said, tmp_path):
    setup_logging()
    handler = log_to_file(tmp_path / "run.log")

    def full(_):
        raise OSError(28, "No space left on device")

    handler.stream.close()
    handler.stream = type("Full", (), {"write": staticmethod(full), "flush": staticmethod(lambda: None),
                                       "close": staticmethod(lambda: None)})()  # fmt: skip
    get_logger("x").warning("a line")
    stop_logging_to(handler)
    assert "a line" in said()
    assert "Traceback" not in said()


def test_a_terminal_that_went_away_stops_nothing(said, monkeypatch):
    def gone(_):
        raise BrokenPipeError(32, "Broken pipe")

    setup_logging()
    monkeypatch.setattr(sys.stderr, "write", gone)
    get_logger("x").warning("nobody reads this")
    monkeypatch.undo()
    assert "nobody" not in said()


def test_a_warning_once_in_a_run(said):
    setup_logging()
    for _ in range(3):
        warn_once(get_logger("x"), "key", "100 % odd")
    warn_once(get_logger("x"), "other key", "another")
    assert said().count("100 % odd") == 1
    assert "another" in said()
    setup_logging()
    warn_once(get_logger("x"), "key", "100 % odd")
    assert said().count("100 % odd") == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (75.2, "1:15"), (59.6, "1:00"), (4000, "1:06:40"), (-3, "0:00"), (360000, "100:00:00")],
)
def test_spans_of_time(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.usefixtures("clock")
def test_progress_without_a_terminal_is_a_line_now_and_then(said):
    setup_logging()
    assert list(progress(range(5), 5, "cutting", every_seconds=15)) == [0, 1, 2, 3, 4]
    lines = said().splitlines()
    assert 0 < len(lines) < 5
    assert "cutting: 2 of 5, " in lines[0]


@pytest.mark.usefixtures("clock")
def test_steps_of_an_image_without_a_terminal(said):
    setup_logging()
    with StepLine("1/2 a.png") as line:
        for done in range(1, 5):
            line.show("restored", done, 4)
    lines = said().splitlines()
    assert lines
    assert "1/2 a.png restored: tile 1 of 4, " in lines[0]
    assert not any("step 4 of 4" in text for text in lines)


def test_bars_on_a_terminal_go_away_again(said, monkeypatch):
    setup_logging()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with StepLine("a.png") as line:
        line.show("first", 1, 2)
        line.show("second", 1, 2)
    bar = TrainingBar(0, 10)
    bar.advance(5, 0.25)
    bar.close()
    assert list(progress([1, 2], 2, "cutting")) == [1, 2]
    text = said()
    assert "first" in text
    assert "second" in text


def test_errors_carry_their_exit_codes():
    assert [kind.exit_code for kind in (TesseraError, ConfigError, DataError, Interrupted)] == [1, 2, 2, 130]
    assert issubclass(Interrupted, TesseraError)


PLUGIN = """\
from __future__ import annotations
from dataclasses import dataclass
from logging import getLogger

getLogger("plugin").warning("imported")

@dataclass(frozen=True)
class Mine:
    value: int = 3
"""


def test_a_plugin_is_imported_once_and_may_hold_dataclasses(tmp_path, caplog):
    (tmp_path / "mine.py").write_text(PLUGIN)
    with caplog.at_level(logging.WARNING):
        import_plugins(["mine.py"], tmp_path)
        import_plugins([str(tmp_path / "mine.py")], tmp_path / "elsewhere")
    assert caplog.messages.count("imported") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no such Python file"), ("x = (", "SyntaxError"), ("import nothing_of_this_name", "ModuleNotFoundError")],
)
def test_a_plugin_that_cannot_be_imported(tmp_path, text, message):
    if text is not None:
        (tmp_path / "bad.py").write_text(text)
    for _ in range(2):  # a failed import leaves nothing behind that would hide the second failure
        with pytest.raises(ConfigError, match=message):
            import_plugins(["bad.py"], tmp_path)
