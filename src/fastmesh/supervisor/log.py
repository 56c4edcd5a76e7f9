"""The log of the processes themselves: one line an event on stderr, as text or JSON.

Owns the form of a line. Knows nothing of who logs, and imports nothing: arbiter and agent hold it for life.
"""

from __future__ import annotations

import os
import time
from _json import encode_basestring_ascii

LEVELS = ("debug", "info", "warning", "error")


def clean(text: str) -> str:
    """`text` on one line: control characters (a peer may have chosen them) are written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def scalar(value: object) -> str:
    """A JSON scalar; whatever is not a number or a truth value is written as a string."""
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    return encode_basestring_ascii(str(value))


class Log:
    """Writes lines under one process's name. A line that cannot be written (full disk, closed pipe) is
    dropped."""

    def __init__(self, name: str, form: str = "text", level: str = "info", fd: int = 2) -> None:
        self.name = name
        self.form = form
        self.fd = fd
        self.least = LEVELS.index(level)

    def named(self, name: str) -> Log:
        """The same log under another name: for a child process or a part."""
        return Log(name, self.form, LEVELS[self.least], self.fd)

    def write(self, level: str, message: str, fields: dict[str, object]) -> None:
        if LEVELS.index(level) < self.least:
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        if self.form == "json":
            pairs: list[tuple[str, object]] = [
                ("time", stamp),
                ("level", level),
                ("process", self.name),
                ("message", message),
                *fields.items(),
            ]
            line = "{" + ", ".join(f"{encode_basestring_ascii(k)}: {scalar(v)}" for k, v in pairs) + "}\n"
        else:
            tail = "".join(f" {k}={clean(str(v))}" for k, v in fields.items())
            line = f"{stamp} {level:7} {self.name}: {clean(message)}{tail}\n"
        try:
            os.write(self.fd, line.encode("utf-8", "backslashreplace"))
        except OSError:
            return

    def debug(self, message: str, **fields: object) -> None:
        self.write("debug", message, fields)

    def info(self, message: str, **fields: object) -> None:
        self.write("info", message, fields)

    def warning(self, message: str, **fields: object) -> None:
        self.write("warning", message, fields)

    def error(self, message: str, **fields: object) -> None:
        self.write("error", message, fields)

    def exception(self, message: str, error: BaseException) -> None:
        """An unexpected error on one line, with where it happened."""
        trace = error.__traceback__
        places = []
        while trace is not None:
            code = trace.tb_frame.f_code
            places.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}:{code.co_name}")
            trace = trace.tb_next
        self.error(message, error=f"{type(error).__name__}: {error}", at=" > ".join(places[-6:]))
