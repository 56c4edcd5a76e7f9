"""Reading Cython source for the gates: logical lines (no comments, strings emptied), cimports, C functions.

A scanner, not a parser: it knows strings, comments, brackets and indentation, which is all that the rules of
`_core` need, and it never imports what it reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "src/fastmesh/_core"
# The only files of _core that Python sees: they may hold Python objects and raise.
BORDER = ("shm/clusters", "shm/pack", "shm/sections", "shm/segment", "proxy/explain", "proxy/worker")

_STRING = re.compile(r"""[rbuf]{0,2}(?:\"\"\"|'''|"|')""", re.I)
_FUNCTION = re.compile(
    r"(?:cdef|cpdef)\s+(?!class\b|extern\b|struct\b|union\b|enum\b|packed\b)(?P<type>[^(=:]*?)(?P<name>\w+)\s*\("
)


@dataclass(frozen=True)
class Line:
    """One statement: its physical lines, its indentation, its text with empty strings and no comment."""

    first: int
    last: int
    indent: int
    text: str


@dataclass(frozen=True)
class Function:
    """A C function or prototype: `tail` is what follows its closing bracket, `body` its line numbers."""

    name: str
    head: Line
    tail: str
    body: range


def _blank_strings(text: str) -> str:
    """The source with comments dropped and strings emptied; \\x00 stands for a line break in a string."""
    out: list[str] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char == "#":
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
            continue
        may_open = char in "\"'" or (char in "rbufRBUF" and _word_start(text, at))
        opened = _STRING.match(text, at) if may_open else None
        if opened is None:
            out.append(char)
            at += 1
            continue
        quote = opened[0].lstrip("rbufRBUF")
        at = opened.end()
        out.append('"')
        while at < len(text) and not text.startswith(quote, at):
            if text[at] == "\\":
                at += 1
            if at < len(text) and text[at] == "\n":
                out.append("\x00")
            at += 1
        out.append('"')
        at += len(quote)
    return "".join(out)


def _word_start(text: str, at: int) -> bool:
    return at == 0 or not (text[at - 1].isalnum() or text[at - 1] == "_")


def logical_lines(text: str) -> list[Line]:
    """The statements of a Cython source, in order."""
    lines: list[Line] = []
    pending = ""
    first = number = 1
    depth = 0
    for raw in _blank_strings(text).split("\n"):
        if not pending:
            first = number
        depth += sum(raw.count(c) for c in "([{") - sum(raw.count(c) for c in ")]}")
        joined = raw.endswith("\\")
        pending += raw.removesuffix("\\") + (" " if joined or depth > 0 else "")
        number += 1 + raw.count("\x00")
        if joined or depth > 0:
            continue
        bare = pending.replace("\x00", "").rstrip()
        if bare.strip():
            indent = len(bare) - len(bare.lstrip())
            lines.append(Line(first, number - 1, indent, re.sub(r"\s+", " ", bare.strip())))
        pending, depth = "", 0
    return lines


def block(lines: list[Line], start: int) -> list[Line]:
    """The statements inside the block that statement number `start` opens."""
    inside = []
    for line in lines[start + 1 :]:
        if line.indent <= lines[start].indent:
            break
        inside.append(line)
    return inside


def functions(lines: list[Line]) -> Iterator[Function]:
    """C functions and prototypes, those of extern blocks left out; function-pointer variables are none."""
    extern_indent: int | None = None
    for index, line in enumerate(lines):
        if extern_indent is not None and line.indent > extern_indent:
            continue
        extern_indent = line.indent if re.match(r"cdef (?:public |api )*extern\b", line.text) else None
        found = None if extern_indent is not None else _FUNCTION.match(line.text)
        if not found:
            continue
        depth, at = 1, found.end()
        while depth and at < len(line.text):
            depth += {"(": 1, ")": -1}.get(line.text[at], 0)
            at += 1
        if line.text[at:].lstrip().startswith(("(", "=")):
            continue  # `cdef int (*callback)(...)`: a pointer
        inside = block(lines, index) if line.text.endswith(":") else []
        body = range(inside[0].first, inside[-1].last + 1) if inside else range(0)
        yield Function(found["name"], line, line.text[at:].split(":")[0].strip(), body)


def cimports(lines: list[Line]) -> Iterator[tuple[Line, str]]:
    """(statement, full name of a module) for each cimport; `from p cimport m` also yields p.m."""
    for line in lines:
        if found := re.match(r"from ([\w.]+) cimport (.+)", line.text):
            yield line, found[1]
            for name in found[2].strip("() ").split(","):
                yield line, f"{found[1]}.{name.split(' as ')[0].strip()}"
        elif found := re.match(r"cimport (.+)", line.text):
            for name in found[1].split(","):
                yield line, name.split(" as ")[0].strip()


def core_files(*suffixes: str) -> list[Path]:
    """The Cython files of _core with one of these suffixes."""
    return sorted(path for suffix in suffixes for path in CORE.rglob(f"*{suffix}"))


def is_border(path: Path) -> bool:
    """Is it one of the files that Python sees?"""
    return path.with_suffix("").as_posix().endswith(BORDER)
