"""supervisor/log.py"""

from __future__ import annotations

import json
import os
import re

from hypothesis import given
from hypothesis import strategies as st

from fastmesh.supervisor.log import Log


def written(
    form: str, level: str = "info", *, least: str = "info", message: str = "m", **fields: object
) -> str:
    reader, writer = os.pipe()
    log = Log("p", form, least, writer)
    getattr(log, level)(message, **fields)
    os.close(writer)
    with open(reader, encoding="utf-8", newline="") as file:
        return file.read()


def test_text() -> None:
    line = written("text", "warning", message="it happened", pid=5, where="here")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z warning p: it happened pid=5 where=here\n", line
    )


def test_json() -> None:
    line = written("json", "error", message='say "hi"', pid=5, good=True, part=1.5)
    entry = json.loads(line)
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "error",
        "process": "p",
        "message": 'say "hi"',
        "pid": 5,
        "good": True,
        "part": 1.5,
    }


@given(st.text(max_size=50), st.text(max_size=50))
def test_an_event_is_one_line(message: str, value: str) -> None:
    for form in ("text", "json"):
        line = written(form, message=message, value=value)
        assert line.count("\n") == 1 and line.endswith("\n") and "\r" not in line


def test_levels_below_the_least_are_left_out() -> None:
    assert written("text", "info", least="warning") == ""
    assert written("text", "debug") == ""
    assert written("text", "error", least="error") != ""


def test_an_exception_is_one_line_with_its_place() -> None:
    reader, writer = os.pipe()
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        Log("p", fd=writer).exception("oops", error)
    line = os.read(reader, 4096).decode()
    assert line.count("\n") == 1
    assert "ValueError: two\\nlines" in line and "test_log.py:" in line


def test_a_log_that_cannot_be_written_is_no_error() -> None:
    Log("p", fd=os.open("/dev/full", os.O_WRONLY)).error("lost")
