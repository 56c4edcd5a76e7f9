"""YAML and JSON to documents, and documents to resources (model). The only file that imports yaml.

Multi-document YAML with anchors and merge keys; `kind: List` is opened. Strict: a key given twice is an
error, aliases are bounded by what they expand to, size and depth are capped. Lines are found on demand from
the parser's nodes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Final

import yaml

from fastmesh.model.fields import clip, name_of
from fastmesh.model.problems import ConfigError, Origin, Path, Problem, errors_of
from fastmesh.model.schema import DEFAULT_NAMESPACE, Resource, parse_resource

MAX_BYTES: Final = 32 * 1024 * 1024
"""A config file larger than this is refused unread: 10,000 routes take about 3 MB."""
MAX_NODES: Final = 4_000_000
"""Values of all documents of a file after aliases are expanded: an alias bomb stops here."""
MAX_DEPTH: Final = 64
"""Nesting of one document; Istio's deepest field is about 12 levels down."""
MAX_DOCUMENTS: Final = 100_000

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG: Final = "tag:yaml.org,2002:"
_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9_]{0,40})")
_TRUE: Final = frozenset({"true", "yes", "on", "y"})
_OPEN: Final = re.compile(rb"[\[{]")


class _Invalid(Exception):
    """A document that cannot be read, with the line."""

    def __init__(self, message: str, line: int, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.hint = hint


@dataclass(slots=True)
class NodeLocator:
    """Lines by walking the parser's nodes; only done for fields that have a problem."""

    node: Any

    def line_of(self, path: Path) -> int:
        node = self.node
        for part in path:
            found = None
            if isinstance(node, yaml.MappingNode):
                found = next(((k, v) for k, v in node.value if getattr(k, "value", None) == str(part)), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                found = (node.value[part], node.value[part])
            if found is None:
                break
            key, node = found
            line = key.start_mark.line + 1
        else:
            return int(line) if path else int(node.start_mark.line) + 1
        return int(line) if node is not self.node else int(node.start_mark.line) + 1


@dataclass(slots=True)
class Document:
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


class _Builder:
    """Nodes to plain data, counting what aliases expand to."""

    def __init__(self, name: str, problems: list[Problem]) -> None:
        self.name = name
        self.problems = problems
        self.nodes = 0

    def build(self, node: Any, depth: int = 0) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _Invalid(
                f"more than {MAX_NODES} values after aliases are expanded", node.start_mark.line + 1
            )
        if depth > MAX_DEPTH:
            raise _Invalid(f"nested deeper than {MAX_DEPTH} levels", node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if isinstance(node, yaml.SequenceNode):
            if node.tag != _TAG + "seq":
                raise _Invalid(f"the tag {clip(node.tag)} is not supported", node.start_mark.line + 1)
            return [self.build(n, depth + 1) for n in node.value]
        if node.tag != _TAG + "map":
            raise _Invalid(f"the tag {clip(node.tag)} is not supported", node.start_mark.line + 1)
        return self.mapping(node, depth)

    def mapping(self, node: Any, depth: int) -> dict[Any, Any]:
        out: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == _TAG + "merge":
                self.merge(value_node, merged, depth)
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise _Invalid("a key must be a plain value", line)
            self.nodes += 1
            key = self.scalar(key_node)
            if isinstance(key, float) or key is None:
                raise _Invalid(f"{clip(key_node.value)} cannot be a key", line, "put it in quotes")
            value = self.build(value_node, depth + 1)
            if key in out:
                self.problems.append(
                    Problem(
                        f"the key {clip(key)} is given twice",
                        file=self.name,
                        line=line,
                        hint="YAML would silently keep the last",
                    )
                )
            out[key] = value
        for k, v in merged.items():
            out.setdefault(k, v)
        return out

    def merge(self, node: Any, into: dict[Any, Any], depth: int) -> None:
        """`<<: *anchor` or a list of them: the first that has a key wins."""
        for n in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            value = self.build(n, depth + 1)
            if not isinstance(value, dict):
                raise _Invalid("<< needs a mapping", n.start_mark.line + 1)
            for k, v in value.items():
                into.setdefault(k, v)

    def scalar(self, node: Any) -> Any:
        tag, text = node.tag, node.value
        if tag == _TAG + "str":
            return text
        if tag == _TAG + "int":
            if _INT.fullmatch(text):
                return int(text.replace("_", ""))
            return self.constructed(node)
        if tag == _TAG + "bool":
            return text.lower() in _TRUE
        if tag == _TAG + "null":
            return None
        if tag == _TAG + "float":
            return self.constructed(node)
        if tag in (_TAG + "timestamp", _TAG + "value"):
            return text  # a date is text in a config
        raise _Invalid(f"the tag {clip(tag)} is not supported", node.start_mark.line + 1)

    def constructed(self, node: Any) -> Any:
        """Octal, hexadecimal, sexagesimal, floats: as PyYAML reads them."""
        line = node.start_mark.line + 1
        if len(node.value) > 64:
            raise _Invalid(f"{clip(node.value)}: the number is too long", line)
        constructor = yaml.constructor.SafeConstructor()
        try:
            if node.tag == _TAG + "int":
                return constructor.construct_yaml_int(node)
            return constructor.construct_yaml_float(node)
        except (ValueError, OverflowError, IndexError):
            raise _Invalid(f"{clip(node.value)} is not a number", line) from None


def load_documents(text: str | bytes, name: str, problems: list[Problem]) -> list[Document]:
    """The documents of a YAML or JSON text; empty ones are left out. What is wrong is added to `problems`."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(raw) > MAX_BYTES:
        problems.append(Problem(f"larger than {MAX_BYTES // 2**20} MiB", file=name))
        return []
    try:
        decoded = raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        problems.append(Problem("is not UTF-8", file=name, line=raw.count(b"\n", 0, e.start) + 1))
        return []
    builder = _Builder(name, problems)
    out: list[Document] = []
    loader = None
    try:
        _refuse_deep_flow(raw)
        loader = _LOADER(decoded)
        while loader.check_node():
            node = loader.get_node()
            if len(out) >= MAX_DOCUMENTS:
                raise _Invalid(f"more than {MAX_DOCUMENTS} documents", node.start_mark.line + 1)
            line = node.start_mark.line + 1
            data = builder.build(node)
            if data is not None:
                out.extend(_open_list(Document(data, Origin(name, line, NodeLocator(node))), node, problems))
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        problems.append(
            Problem(
                f"is not valid YAML: {' '.join(filter(None, (e.context, e.problem)))}",
                file=name,
                line=mark.line + 1 if mark else 0,
            )
        )
    except yaml.YAMLError as e:
        problems.append(Problem(f"is not valid YAML: {' '.join(str(e).split())[:200]}", file=name))
    except _Invalid as e:
        problems.append(Problem(e.message, file=name, line=e.line, hint=e.hint))
    finally:
        if loader is not None:
            loader.dispose()
    return out


def _refuse_deep_flow(raw: bytes) -> None:
    """`[[[[...` nests the parser itself: stop before it recurses. Counts brackets outside of nothing, so only
    absurd depth is caught."""
    if len(_OPEN.findall(raw)) <= MAX_DEPTH:
        return
    depth = 0
    for m in re.finditer(rb"[\[\]{}]+", raw):
        for c in m.group():
            depth = depth + 1 if c in b"[{" else max(0, depth - 1)
            if depth > 16 * MAX_DEPTH:
                raise _Invalid(f"nested deeper than {MAX_DEPTH} levels", raw.count(b"\n", 0, m.start()) + 1)


def _open_list(doc: Document, node: Any, problems: list[Problem]) -> list[Document]:
    """The items of a `kind: List` (what kubectl prints for many objects), else the document itself."""
    data = doc.data
    if not isinstance(data, dict) or data.get("kind") != "List":
        return [doc]
    origin = doc.origin
    extra = [k for k in data if k not in ("apiVersion", "kind", "metadata", "items")]
    if data.get("apiVersion") != "v1" or extra:
        problems.append(
            Problem(
                f"unknown field {clip(extra[0])}" if extra else "a List has apiVersion v1",
                kind="List",
                file=origin.file,
                line=origin.line,
            )
        )
    items = data.get("items")
    if not isinstance(items, list):
        problems.append(
            Problem(
                f"must be a list, not {name_of(items)}",
                "items",
                kind="List",
                file=origin.file,
                line=origin.line,
            )
        )
        return []
    nodes: list[Any] = next((v.value for k, v in node.value if k.value == "items"), [])
    return [
        Document(item, Origin(origin.file, n.start_mark.line + 1, NodeLocator(n)))
        for item, n in zip(items, nodes, strict=False)
    ]


def load_text(text: str | bytes, name: str = "<config>", namespace: str = DEFAULT_NAMESPACE) -> Loaded:
    """All resources of a text (YAML or JSON), each checked against its schema. Cross-object rules are
    validate.py's."""
    out = Loaded()
    for doc in load_documents(text, name, out.problems):
        resource = parse_resource(doc.data, doc.origin, out.problems, namespace)
        if resource is not None:
            out.resources.append(resource)
    return out


def load_file(path: str, namespace: str = DEFAULT_NAMESPACE) -> Loaded:
    try:
        with FilePath(path).open("rb") as f:
            raw = f.read(MAX_BYTES + 1)
    except OSError as e:
        return Loaded(problems=[Problem(f"cannot be read: {e.strerror or e}", file=path)])
    return load_text(raw, path, namespace)


def load_dicts(docs: list[Any], name: str = "<api>", namespace: str = DEFAULT_NAMESPACE) -> Loaded:
    """Resources that are plain data already (from a store or an HTTP body)."""
    out = Loaded()
    for doc in docs:
        resource = parse_resource(doc, Origin(name), out.problems, namespace)
        if resource is not None:
            out.resources.append(resource)
    return out
