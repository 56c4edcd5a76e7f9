"""Texts and files to resources (model): decoding, documents, `kind: List`, each object's schema. What objects
must say together is validate.py's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from fastmesh.model.fields import clip, name_of
from fastmesh.model.problems import ConfigError, Origin, Problem, TooManyProblems, errors_of
from fastmesh.model.schema import DEFAULT_NAMESPACE, Resource, parse_resource
from fastmesh.model.yamldoc import MAX_BYTES, Lines, Locator, Reader, Unreadable


@dataclass(slots=True)
class Document:
    """The data of one resource, not yet checked."""

    data: Any
    origin: Origin


@dataclass(slots=True)
class Loaded:
    """What a text holds: the resources that are well formed and everything that is wrong."""

    resources: list[Resource] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def ok(self) -> list[Resource]:
        """The resources, or ConfigError if anything is wrong."""
        if errors_of(self.problems):
            raise ConfigError(self.problems)
        return self.resources


def load_documents(text: str | bytes, name: str, problems: list[Problem]) -> list[Document]:
    """The documents of a YAML or JSON text; empty ones are left out. What is wrong is added to `problems`."""
    try:
        raw = text.encode() if isinstance(text, str) else text
        decoded = raw.decode("utf-8-sig")
    except UnicodeError as e:
        line = (
            text.count(b"\n", 0, e.start) + 1
            if isinstance(e, UnicodeDecodeError) and isinstance(text, bytes)
            else 0
        )
        problems.append(Problem("is not UTF-8", file=name, line=line))
        return []
    if len(raw) > MAX_BYTES:
        problems.append(Problem(f"larger than {MAX_BYTES // 2**20} MiB", file=name))
        return []
    lines = Lines(decoded)
    out: list[Document] = []
    try:
        for data, line, number in Reader(name, problems).documents(decoded):
            if data is not None:
                out += _open_list(data, Origin(name, line, Locator(lines, number)), lines, number, problems)
    except Unreadable as e:
        problems.append(Problem(e.message, file=name, line=e.line, hint=e.hint))
        # The rest cannot be read, and so no line in it can be found.
        out = [Document(d.data, Origin(name, d.origin.line)) for d in out]
    return out


def _open_list(
    data: Any, origin: Origin, lines: Lines, number: int, problems: list[Problem]
) -> list[Document]:
    """The items of a `kind: List` (what kubectl prints for many objects), else the document itself."""
    if not isinstance(data, dict) or data.get("kind") != "List":
        return [Document(data, origin)]
    extra = [k for k in data if k not in ("apiVersion", "kind", "metadata", "items")]
    items = data.get("items")
    what, path = "", ""
    if extra:
        what, path = "unknown field of List", str(extra[0])
    elif data.get("apiVersion") != "v1":
        what, path = f"{clip(data.get('apiVersion'))} is not a version of List: v1", "apiVersion"
    elif not isinstance(items, list):
        what, path = f"must be a list, not {name_of(items)}", "items"
    if what:
        problems.append(Problem(what, path, kind="List", file=origin.file, line=origin.line))
    if not isinstance(items, list):
        return []
    return [
        Document(item, Origin(origin.file, origin.line, Locator(lines, number, ("items", i))))
        for i, item in enumerate(items)
    ]


def load_text(text: str | bytes, name: str = "<config>", namespace: str = DEFAULT_NAMESPACE) -> Loaded:
    """All resources of a text (YAML or JSON), each checked against its schema.

    `namespace`: where objects without metadata.namespace go."""
    out = Loaded()
    _check(load_documents(text, name, out.problems), out, namespace)
    return out


def _check(documents: list[Document], out: Loaded, namespace: str) -> None:
    try:
        for doc in documents:
            resource = parse_resource(doc.data, doc.origin, out.problems, namespace)
            if resource is not None:
                out.resources.append(resource)
    except TooManyProblems:
        origin = doc.origin
        out.problems.append(
            Problem("too many problems: the rest is not checked", file=origin.file, line=origin.line)
        )


def load_file(path: str, namespace: str = DEFAULT_NAMESPACE) -> Loaded:
    try:
        with FilePath(path).open("rb") as f:
            raw = f.read(MAX_BYTES + 1)
    except (OSError, ValueError) as e:
        return Loaded(problems=[Problem(f"cannot be read: {getattr(e, 'strerror', None) or e}", file=path)])
    return load_text(raw, path, namespace)


def load_dicts(docs: list[Any], name: str = "<api>", namespace: str = DEFAULT_NAMESPACE) -> Loaded:
    """Resources that are plain data already (from a store or an HTTP body)."""
    out = Loaded()
    _check([Document(doc, Origin(name)) for doc in docs], out, namespace)
    return out
