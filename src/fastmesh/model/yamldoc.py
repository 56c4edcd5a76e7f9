"""YAML (and JSON, its subset) to plain data, strictly and within bounds (model). The only file that imports
yaml.

Built from the parser's events without recursion: PyYAML's own composer recurses in C, and a few kilobytes of
`- - - -` crash the process. A key given twice is an error; aliases share what they name and count for what
they expand to. Lines are found by a second parse, only when there is something to report.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import yaml

from fastmesh.model.fields import clip
from fastmesh.model.problems import MAX_PROBLEMS, Path, Problem

MAX_BYTES: Final = 32 * 1024 * 1024
"""A text larger than this is refused unread: 10,000 routes take about 3 MB."""
MAX_NODES: Final = 4_000_000
"""Values of all documents of a text after aliases are expanded: an alias bomb stops here."""
MAX_DEPTH: Final = 64
"""Nesting of one document; Istio's deepest field is about 12 levels down."""
MAX_DOCUMENTS: Final = 100_000

_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER: Final[Any] = yaml.resolver.Resolver()
_TAG: Final = "tag:yaml.org,2002:"
_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,40})")
_TRUE: Final = frozenset({"true", "yes", "on"})
_UNSET: Final = object()


class Unreadable(Exception):
    """A text that cannot be read any further, with the line."""

    def __init__(self, message: str, line: int, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.hint = hint


@dataclass(slots=True)
class _Frame:
    """A list or mapping that is being filled."""

    value: Any
    anchor: str | None
    line: int
    key: Any = _UNSET
    merged: dict[Any, Any] | None = None
    size: int = 1
    height: int = 1


@dataclass(frozen=True, slots=True)
class _Anchored:
    value: Any
    size: int
    height: int


@dataclass(slots=True)
class Lines:
    """Lines of a text's fields: composes the text again, once, when first asked. Only for texts that were
    read."""

    text: str
    _nodes: list[Any] | None = field(default=None, repr=False)

    def line_of(self, document: int, path: Path) -> int:
        """Of a field, or of the nearest thing above it that exists. 0: not known."""
        if self._nodes is None:
            self._nodes = list(yaml.compose_all(self.text, Loader=_LOADER))
        if document >= len(self._nodes):
            return 0
        node = self._nodes[document]
        line = int(node.start_mark.line) + 1
        for part in path:
            pair = None
            if isinstance(node, yaml.MappingNode):
                pair = next(((k, v) for k, v in node.value if getattr(k, "value", None) == str(part)), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                pair = (node.value[part], node.value[part])
            if pair is None:
                break
            at, node = pair
            line = int(at.start_mark.line) + 1
        return line


@dataclass(frozen=True, slots=True)
class Locator:
    """Finds fields of one resource: a document, or an item of a List (`base`)."""

    lines: Lines
    document: int
    base: Path = ()

    def line_of(self, path: Path) -> int:
        return self.lines.line_of(self.document, (*self.base, *path))


class Reader:
    """One text. `documents` yields (data, line, number) and may raise Unreadable; keys given twice go to
    `problems`."""

    def __init__(self, name: str, problems: list[Problem]) -> None:
        self.name = name
        self.problems = problems
        self.nodes = 0
        self.anchors: dict[str, _Anchored | None] = {}
        self.stack: list[_Frame] = []

    def documents(self, text: str) -> Iterator[tuple[Any, int, int]]:
        number = 0
        line = 1
        try:
            events: Any = yaml.parse(text, Loader=_LOADER)
            for event in events:
                if isinstance(event, yaml.DocumentStartEvent):
                    if number >= MAX_DOCUMENTS:
                        raise Unreadable(f"more than {MAX_DOCUMENTS} documents", _line(event))
                    self.anchors.clear()
                    number += 1
                    line = 0
                elif isinstance(event, yaml.NodeEvent):
                    line = line or _line(event)
                    done = self.node(event)
                    if done is not _UNSET:
                        yield done, line, number - 1
                elif isinstance(event, yaml.CollectionEndEvent):
                    done = self.end()
                    if done is not _UNSET:
                        yield done, line, number - 1
        except yaml.MarkedYAMLError as e:
            mark = e.problem_mark or e.context_mark
            what = " ".join(filter(None, (e.context, e.problem)))
            raise Unreadable(f"is not valid YAML: {what}", mark.line + 1 if mark else 0) from None
        except yaml.YAMLError as e:
            raise Unreadable(f"is not valid YAML: {' '.join(str(e).split())[:200]}", 0) from None

    def node(self, event: Any) -> Any:
        """A scalar or alias is a value at once, a list or mapping opens a frame."""
        at = _line(event)
        if isinstance(event, yaml.AliasEvent):
            found = self.anchors.get(str(event.anchor))
            if found is None:
                inside = event.anchor in self.anchors
                raise Unreadable(
                    f"*{event.anchor} stands inside of what it names"
                    if inside
                    else f"*{event.anchor}: there is no such anchor",
                    at,
                )
            self.count(found.size, at)
            return self.add(found.value, found.size, found.height, None, at)
        self.count(1, at)
        if isinstance(event, yaml.ScalarEvent):
            return self.add(scalar(event), 1, 0, event.anchor, at)
        kind = "map" if isinstance(event, yaml.MappingStartEvent) else "seq"
        if event.tag not in (None, "!", _TAG + kind):
            raise Unreadable(f"the tag {clip(event.tag)} is not supported", at)
        if self.stack and isinstance(self.stack[-1].value, dict) and self.stack[-1].key is _UNSET:
            raise Unreadable("a key must be a plain value", at)
        if len(self.stack) >= MAX_DEPTH:
            raise Unreadable(f"nested deeper than {MAX_DEPTH} levels", at)
        if event.anchor:
            self.anchors[event.anchor] = None
        self.stack.append(_Frame({} if kind == "map" else [], event.anchor, at))
        return _UNSET

    def count(self, size: int, at: int) -> None:
        self.nodes += size
        if self.nodes > MAX_NODES:
            raise Unreadable(f"more than {MAX_NODES} values after aliases are expanded", at)

    def end(self) -> Any:
        frame = self.stack.pop()
        for k, v in (frame.merged or {}).items():
            frame.value.setdefault(k, v)
        return self.add(frame.value, frame.size, frame.height, frame.anchor, frame.line)

    def add(self, value: Any, size: int, height: int, anchor: str | None, at: int) -> Any:
        """Put a finished value where it belongs; returned when it is a whole document."""
        if anchor:
            self.anchors[anchor] = _Anchored(value, size, height)
        if not self.stack:
            return value
        frame = self.stack[-1]
        frame.size += size
        frame.height = max(frame.height, height + 1)
        if len(self.stack) + height > MAX_DEPTH:
            raise Unreadable(f"nested deeper than {MAX_DEPTH} levels", at)
        if isinstance(frame.value, list):
            frame.value.append(value)
        elif frame.key is _UNSET:
            if isinstance(value, (float, list, dict)) or value is None:
                raise Unreadable(f"{clip(value)} cannot be a key", at, "put it in quotes")
            frame.key = value
            if value is not MERGE and value in frame.value:
                if len(self.problems) >= MAX_PROBLEMS:
                    raise Unreadable("too many problems: the rest is not checked", at)
                hint = "plain YAML would keep the last and drop the first silently"
                self.problems.append(
                    Problem(f"the key {clip(value)} is given twice", hint=hint, file=self.name, line=at)
                )
        else:
            key, frame.key = frame.key, _UNSET
            if key is MERGE:
                self.merge(frame, value, at)
            else:
                frame.value[key] = value
        return _UNSET

    def merge(self, frame: _Frame, value: Any, at: int) -> None:
        """`<<: *anchor`, or a list of them: the first that has a key wins, and the mapping's own keys before
        all."""
        merged: dict[Any, Any] = frame.merged if frame.merged is not None else {}
        for each in value if isinstance(value, list) else [value]:
            if not isinstance(each, dict):
                raise Unreadable("<< needs a mapping", at)
            for k, v in each.items():
                merged.setdefault(k, v)
        frame.merged = merged


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


class _Merge:
    """The key `<<`."""

    def __str__(self) -> str:
        return "<<"


MERGE: Final = _Merge()


def scalar(event: Any) -> Any:
    """A scalar by YAML 1.1's rules (as kubectl reads it), except that dates stay text."""
    tag: str = event.tag or ""
    text: str = event.value
    if tag in ("", "!"):
        if not event.implicit[0] or tag:
            return text
        tag = plain_tag(text)
    kind = tag.removeprefix(_TAG)
    if kind in ("str", "timestamp", "value"):
        return text
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() in _TRUE
    if kind == "merge":
        return MERGE
    at = _line(event)
    if kind == "int" and _INT.fullmatch(text):
        return int(text)
    if kind in ("int", "float"):
        return unusual_number(kind, text, at)
    raise Unreadable(f"the tag {clip(tag)} is not supported", at)


@lru_cache(maxsize=16384)
def plain_tag(text: str) -> str:
    """The tag of a plain scalar."""
    return str(_RESOLVER.resolve(yaml.ScalarNode, text, (True, False)))


def unusual_number(kind: str, text: str, at: int) -> int | float:
    """Octal, hexadecimal, sexagesimal numbers and floats, as PyYAML reads them."""
    if len(text) > 64:
        raise Unreadable(f"{clip(text)}: the number is too long", at)
    maker = yaml.constructor.SafeConstructor()
    node = yaml.ScalarNode(_TAG + kind, text)
    try:
        made: int | float = (
            maker.construct_yaml_int(node) if kind == "int" else maker.construct_yaml_float(node)
        )
    except (ValueError, OverflowError, IndexError):
        raise Unreadable(f"{clip(text)} is not a number", at) from None
    return made
