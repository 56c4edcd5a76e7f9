"""What is wrong with a config, and where (model, lowest layer): problems, and the one error that carries them
all.

Knows nothing of YAML or of any resource. A problem names file and line, object, field path, message and hint;
a list of them prints one per line for people and as JSON for programs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

PathPart = str | int
Path = tuple[PathPart, ...]
Severity = Literal["error", "warning"]

MAX_SHOWN = 200
"""How many problems an error prints; the rest is counted. JSON has all of them."""


MAX_PROBLEMS = 10_000
"""More are not looked for: a text of nothing but mistakes must not fill the memory with messages."""


class Locator(Protocol):
    """Finds the line of a field in the document that it came from."""

    def line_of(self, path: Path) -> int: ...


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a resource was written: the file (or "<stdin>", "<api>"), and how to find a field's line in
    it."""

    file: str = ""
    line: int = 0
    locator: Locator | None = None

    def line_of(self, path: Path) -> int:
        return self.locator.line_of(path) if self.locator is not None else self.line


@dataclass(frozen=True, slots=True)
class Problem:
    message: str
    path: str = ""
    hint: str = ""
    severity: Severity = "error"
    file: str = ""
    line: int = 0
    kind: str = ""
    namespace: str = ""
    name: str = ""
    at: Path = field(default=(), compare=False, repr=False)  # `path` in parts

    def located(self, origin: Origin | None) -> Problem:
        """The same as found in the text that the object came from: for who checked it without its text."""
        if origin is None:
            return self
        return replace(self, file=origin.file, line=origin.line_of(self.at))

    def __str__(self) -> str:
        """`edge.yaml:12: VirtualService default/reviews: spec.http[0].fault: not implemented yet (hint)`."""
        parts = []
        if self.file:
            parts.append(f"{self.file}:{self.line}" if self.line else self.file)
        if self.kind or self.name:
            what = f"{self.namespace}/{self.name}" if self.namespace and self.name else self.name
            parts.append(f"{self.kind or 'resource'} {what}".strip())
        if self.path:
            parts.append(self.path)
        text = ": ".join([*parts, self.message])
        return f"{text} ({self.hint})" if self.hint else text

    def to_dict(self) -> dict[str, Any]:
        """For JSON and msgpack: only what is known."""
        pairs = {
            "severity": self.severity,
            "file": self.file,
            "line": self.line,
            "kind": self.kind,
            "namespace": self.namespace,
            "name": self.name,
            "path": self.path,
            "message": self.message,
            "hint": self.hint,
        }
        out: dict[str, Any] = {k: v for k, v in pairs.items() if v}
        out["text"] = str(self)
        return out


class ConfigError(Exception):
    """A config that is refused, with everything that is wrong with it (never only the first)."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: list[Problem] = list(problems)
        super().__init__(format_problems(self.problems))

    def to_json(self) -> str:
        return json.dumps({"errors": [p.to_dict() for p in self.problems]}, indent=2)


class TooManyProblems(Exception):
    """MAX_PROBLEMS are found: checking ends here."""


def errors_of(problems: Iterable[Problem]) -> list[Problem]:
    return [p for p in problems if p.severity == "error"]


def warnings_of(problems: Iterable[Problem]) -> list[Problem]:
    return [p for p in problems if p.severity == "warning"]


def format_problems(problems: Sequence[Problem]) -> str:
    """One problem a line, warnings marked, at most MAX_SHOWN."""
    lines = [f"warning: {p}" if p.severity == "warning" else str(p) for p in problems[:MAX_SHOWN]]
    if len(problems) > MAX_SHOWN:
        lines.append(f"... and {len(problems) - MAX_SHOWN} more")
    return "\n".join(lines)


def render_path(path: Iterable[PathPart]) -> str:
    """("spec", "http", 0, "fault") -> "spec.http[0].fault"; a key that is no plain name is quoted:
    headers["x.y"]."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        elif part.replace("-", "").replace("_", "").isalnum() and part.isascii():
            out += f".{part}" if out else part
        else:
            out += f"[{json.dumps(part)}]"
    return out


class Reporter:
    """Collects problems of one document while a checker walks it; `path` is where the walk is."""

    __slots__ = ("base", "origin", "path", "problems")

    def __init__(
        self, origin: Origin, problems: list[Problem], kind: str = "", namespace: str = "", name: str = ""
    ) -> None:
        self.origin = origin
        self.problems = problems
        self.base = Problem("", file=origin.file, kind=kind, namespace=namespace, name=name)
        self.path: list[PathPart] = []

    def about(self, kind: str, namespace: str, name: str) -> None:
        """Name the object, as soon as its name is known."""
        self.base = replace(self.base, kind=kind, namespace=namespace, name=name)

    def add(
        self, message: str, hint: str = "", *, at: Sequence[PathPart] = (), severity: Severity = "error"
    ) -> None:
        if len(self.problems) >= MAX_PROBLEMS:
            raise TooManyProblems
        full = (*self.path, *at)
        self.problems.append(
            replace(
                self.base,
                message=message,
                hint=hint,
                severity=severity,
                path=render_path(full),
                at=full,
                line=self.origin.line_of(full),
            )
        )

    def warn(self, message: str, hint: str = "", *, at: Sequence[PathPart] = ()) -> None:
        self.add(message, hint, at=at, severity="warning")
