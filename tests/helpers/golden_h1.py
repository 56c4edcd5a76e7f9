r"""Golden cases of HTTP/1: Markdown files with an input and the exact events that it gives, like llhttp's.

A case is a heading, an optional `<!-- meta={"type": "response", "request_method": "HEAD"} -->`, a block
```http with the input and a block ```log with the events. In the input each line end is CRLF; `\r`, `\n`,
`\t`, `\\` and `\xNN` are escapes; a line that ends with a lone `\` goes on without CRLF.

    python tests/helpers/golden_h1.py FILE

prints the file with the events as they are now, to be read before it is kept.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.h1 import AGAIN, NAMES
from shim import h1_shim as h1

CASES = Path(__file__).parents[1] / "golden/h1"
FLAGS = (  # bit 0, bit 1, ...
    "response", "absolute", "asterisk", "close", "keepalive",
    "upgrade", "expect-100", "chunked", "te-trailers", "https",
)  # fmt: skip
BODIES = ("none", "length", "chunked", "close", "tunnel")
METHODS = {"GET": 1, "HEAD": 2, "CONNECT": 9}
_ESCAPE = re.compile(rb"\\(?:([rnt\\])|x([0-9a-fA-F]{2}))")
_CASE = re.compile(
    r"^#+ (?P<title>[^\n]+)\n(?P<prose>(?:(?!^#|^```)[^\n]*\n)*)"
    r"^```http\n(?P<http>.*?)^```\n+^```log\n(?P<log>.*?)^```$",
    re.M | re.S,
)


@dataclass
class Case:
    file: str
    title: str
    meta: dict[str, Any]
    data: bytes
    log: list[str]


def unescape(block: str) -> bytes:
    lines = block.split("\n")[:-1]
    text = b""
    for line in lines:
        raw = line.encode()
        joined = (len(raw) - len(raw.rstrip(b"\\"))) % 2 == 1  # an escaped backslash at the end is one
        text += raw[:-1] if joined else raw + b"\r\n"
    plain = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"\\": b"\\"}
    return _ESCAPE.sub(lambda m: plain[m[1]] if m[1] else bytes([int(m[2], 16)]), text)


def cases_of(path: Path) -> list[Case]:
    found = []
    for m in _CASE.finditer(path.read_text()):
        meta = re.search(r"<!-- meta=(\{.*?\}) -->", m["prose"])
        found.append(
            Case(
                path.name,
                m["title"],
                json.loads(meta[1]) if meta else {},
                unescape(m["http"]),
                m["log"].splitlines(),
            )
        )
    return found


def shown(data: bytes) -> str:
    return repr(data.decode("latin-1"))[1:-1].replace("\\'", "'")


@dataclass
class Reader:
    """A connection's reading side on the shim: messages one behind the other, bytes in any portions."""

    meta: dict[str, Any]
    log: list[str] = field(default_factory=list)
    buffer: bytes = b""
    offset: int = 0  # of buffer[0] in the connection
    seen: int = 0
    decoder: h1.Body | None = None
    content: bytes = b""
    stopped: bool = False

    def say(self, line: str) -> None:
        self.log.append(line)

    def feed(self, data: bytes) -> None:
        self.buffer += data
        while not self.stopped and (self.read_body() if self.decoder else self.read_head()):
            pass

    def stop(self, code: int, where: str) -> bool:
        self.say(f"error {NAMES[code]} in {where} at {self.offset}")
        self.stopped = True
        return False

    def read_head(self) -> bool:
        if not self.buffer:
            return False
        response = self.meta.get("type") == "response"
        method = METHODS[self.meta.get("request_method", "GET")]
        rc, msg = h1.head(self.buffer, response, self.seen, method)
        if rc == AGAIN:
            self.seen = len(self.buffer)
            return False
        if rc < 0:
            return self.stop(rc, "head")
        self.say_head(msg)
        self.buffer, self.seen = self.buffer[rc:], 0
        self.offset += rc
        kind = msg["body"]
        self.say(f"body {BODIES[kind]}" + (f" {msg['content_length']}" if kind == 1 else ""))
        if BODIES[kind] == "tunnel":
            self.stopped = True
            return False
        self.decoder = h1.Body(kind, msg["content_length"]) if kind else None
        if not kind:
            self.say(f"end at {self.offset}")
        return bool(self.buffer)

    def say_head(self, msg: dict[str, Any]) -> None:
        flags = " ".join(name for bit, name in enumerate(FLAGS) if msg["flags"] >> bit & 1 and bit)
        if msg["flags"] & 1:
            self.say(f"status {msg['status']} 1.{msg['minor']} {shown(msg['reason'])}".rstrip())
        else:
            self.say(f"request {shown(msg['method_name'])} {shown(msg['target'])} 1.{msg['minor']}")
            query = f" query={shown(msg['query'])}" if msg["query"] else ""
            self.say(f"route host={shown(msg['host'])} path={shown(msg['path'])}{query}")
        for name, value, _, _ in msg["headers"]:
            self.say(f"field {shown(name)}: {shown(value)}".rstrip())
        if flags:
            self.say(f"flags {flags}")

    def read_body(self) -> bool:
        assert self.decoder
        code, content, rest = self.decoder.feed(self.buffer)
        self.content += content
        self.offset += len(self.buffer) - len(rest or b"")
        self.buffer = rest or b""
        if code == 0 and rest is None:
            return False
        if code < 0:  # how much came before that, and where in a portion it is seen, depends on the portions
            self.say(f"error {NAMES[code]} in body")
            self.stopped = True
            return False
        if self.content:
            self.say(f"data {shown(self.content)}")
        self.content = b""
        if self.decoder.state["has_trailers"]:
            for name, value in h1.trailers(self.decoder.trailer_section)[1]:
                self.say(f"trailer {shown(name)}: {shown(value)}".rstrip())
        self.say(f"end at {self.offset}")
        self.decoder = None
        return bool(self.buffer)

    def end(self) -> None:
        """The peer closed its side."""
        if self.stopped:
            return
        if self.decoder:
            if self.content:
                self.say(f"data {shown(self.content)}")
            self.say(f"end at {self.offset}" if self.decoder.eof() == 0 else "cut short in body")
        elif self.buffer:
            self.say("cut short in head")


def events(data: bytes, meta: dict[str, Any], portion: int) -> list[str]:
    reader = Reader(meta)
    for at in range(0, len(data), portion):
        reader.feed(data[at : at + portion])
    reader.end()
    return reader.log


def updated(path: Path) -> str:
    def fill(m: re.Match[str]) -> str:
        meta = re.search(r"<!-- meta=(\{.*?\}) -->", m["prose"])
        data = unescape(m["http"])
        log = "\n".join(events(data, json.loads(meta[1]) if meta else {}, max(1, len(data))))
        return m[0][: m.start("log") - m.start()] + log + "\n```"

    return _CASE.sub(fill, path.read_text())


if __name__ == "__main__":
    sys.stdout.write(updated(Path(sys.argv[1])))
