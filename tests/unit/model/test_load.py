"""Texts to resources: YAML and JSON, Lists, lines of problems, bounds."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from fastmesh.model import yamldoc
from fastmesh.model.load import load_dicts, load_file, load_text
from fastmesh.model.problems import MAX_PROBLEMS, MAX_SHOWN, ConfigError, Problem, render_path

WORKLOAD = """\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata:
  name: w
spec:
  address: 10.0.0.1
"""


def messages(text: str | bytes) -> list[str]:
    return [str(p) for p in load_text(text, "f").problems]


def test_documents_and_empty_ones() -> None:
    text = f"# a comment\n---\n---\n{WORKLOAD}---\n{WORKLOAD.replace('name: w', 'name: v')}...\n"
    loaded = load_text(text)
    assert [(r.kind, r.namespace, r.name) for r in loaded.ok()] == [
        ("WorkloadEntry", "default", "w"),
        ("WorkloadEntry", "default", "v"),
    ]


def test_a_namespace_for_objects_without_one() -> None:
    assert load_text(WORKLOAD, namespace="shop").ok()[0].namespace == "shop"


def test_json() -> None:
    doc = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": {"name": "w"},
        "spec": {"address": "10.0.0.1", "labels": {"a": "b"}},
    }
    resource = load_text(json.dumps(doc)).ok()[0]
    assert resource.spec == doc["spec"] and resource.raw == doc


def test_a_list_as_kubectl_prints_it() -> None:
    items = "".join(
        "- " + WORKLOAD.replace("name: w", f"name: w{i}").replace("\n", "\n  ").rstrip() + "\n"
        for i in (1, 2)
    )
    text = f"apiVersion: v1\nkind: List\nmetadata:\n  resourceVersion: ''\nitems:\n{items}"
    assert [r.name for r in load_text(text).ok()] == ["w1", "w2"]
    broken = text.replace("address: 10.0.0.1", "adress: 10.0.0.1")
    assert [(p.line, p.path) for p in load_text(broken).problems] == [
        (11, "spec.adress"),
        (17, "spec.adress"),
    ]
    assert messages(text.replace("items", "itemz")) == ["f:1: List: itemz: unknown field of List"]
    assert messages("apiVersion: v2\nkind: List\nitems: 5") == [
        'f:1: List: apiVersion: "v2" is not a version of List: v1'
    ]


def test_what_kubectl_prints_is_taken() -> None:
    """status and the metadata that a server adds are accepted and have no effect."""
    text = (
        WORKLOAD
        + """\
  labels: {a: b}
status: {anything: [1]}
"""
    )
    extra = """\
  creationTimestamp: 2026-01-01T00:00:00Z
  deletionGracePeriodSeconds: 1
  deletionTimestamp: null
  finalizers: [x]
  generation: 1
  managedFields: [{manager: kubectl}]
  ownerReferences: []
  resourceVersion: "1"
  selfLink: /x
  uid: u
  labels: {app: x}
  annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}"}
"""
    resource = load_text(text.replace("  name: w\n", "  name: w\n" + extra)).ok()[0]
    assert (resource.created, resource.labels) == ("2026-01-01T00:00:00Z", {"app": "x"})
    assert list(resource.annotations) == ["kubectl.kubernetes.io/last-applied-configuration"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "networking.istio.io/v1",
            "networking.istio.io/v2",
            'apiVersion: "networking.istio.io/v2" is not a version of WorkloadEntry (one of '
            "networking.istio.io/v1, "
            "networking.istio.io/v1beta1, networking.istio.io/v1alpha3)",
        ),
        (
            "networking.istio.io/v1",
            "security.istio.io/v1",
            'apiVersion: "security.istio.io/v1" is not a version of WorkloadEntry (one of '
            "networking.istio.io/v1, "
            "networking.istio.io/v1beta1, networking.istio.io/v1alpha3)",
        ),
        (
            "kind: WorkloadEntry",
            "kind: WorkloadEntri",
            'kind: unknown kind "WorkloadEntri" (did you mean "WorkloadEntry"?)',
        ),
        (
            "kind: WorkloadEntry",
            "kind: Sidecar",
            "kind: Sidecar: not implemented yet (kinds: VirtualService, "
            "DestinationRule, ServiceEntry, WorkloadEntry, Gateway, PeerAuthentication, "
            "AuthorizationPolicy, LocalRateLimit)",
        ),
        (
            "  name: w",
            "  name: W",
            'metadata.name: "W" is not a valid name (lower-case letters, digits, - and . (RFC 1123))',
        ),
        ("  name: w", "  name: 5", "metadata.name: must be a string, not a whole number (put it in quotes)"),
        (
            "  name: w",
            "  generateName: w-",
            "metadata.name: is required|metadata.generateName: not implemented yet (give name)",
        ),
        (
            "  name: w",
            "  name: w\n  namespace: a.b",
            'metadata.namespace: "a.b" is not a valid namespace (lower-case letters, digits and - (RFC '
            "1123))",
        ),
        (
            "  name: w",
            "  name: w\n  label: {}",
            'metadata.label: unknown field of metadata (did you mean "labels"?)',
        ),
        (
            "  name: w",
            "  name: w\n  labels: {a b: c}",
            'metadata.labels["a b"]: "a b" is not a valid label key',
        ),
        (
            "  name: w",
            "  name: w\n  labels: {a: yes}",
            "metadata.labels.a: must be a string, not a boolean (put it in quotes)",
        ),
        ("spec:", "spek:", 'spek: unknown field (did you mean "spec"?)|spec.address: is required'),
        ("spec:\n  address: 10.0.0.1", "spec: []", "spec: must be a mapping (WorkloadEntry), not a list"),
    ],
)
def test_the_envelope(old: str, new: str, problem: str) -> None:
    """Each wanted problem is the end of one that is told, and there are no others."""
    found, wanted = messages(WORKLOAD.replace(old, new, 1)), problem.split("|")
    assert len(found) == len(wanted)
    assert [w for w in wanted if not any(f.endswith(": " + w) for f in found)] == []


def test_both_networking_and_security_versions() -> None:
    for version in ("v1", "v1beta1", "v1alpha3"):
        load_text(WORKLOAD.replace("istio.io/v1", f"istio.io/{version}")).ok()
    policy = "apiVersion: security.istio.io/{}\nkind: PeerAuthentication\nmetadata: {{name: p}}\n"
    for version in ("v1", "v1beta1"):
        assert load_text(policy.format(version)).ok()[0].spec == {}


def test_the_gateway_api_is_another() -> None:
    text = WORKLOAD.replace("networking.istio.io/v1", "gateway.networking.k8s.io/v1").replace(
        "WorkloadEntry", "Gateway"
    )
    assert "Gateway of" in messages(text)[0] and "not implemented yet" in messages(text)[0]


def test_all_problems_at_once_with_their_lines() -> None:
    text = f"{WORKLOAD}  netwerk: x\n---\n{WORKLOAD}  weight: heavy\n  network: n\n---\nkind: Foo\n"
    assert messages(text) == [
        "f:7: WorkloadEntry default/w: spec.netwerk: unknown field of WorkloadEntry (did you mean "
        '"network"?)',
        "f:15: WorkloadEntry default/w: spec.weight: must be a whole number, not a string",
        "f:16: WorkloadEntry default/w: spec.network: not implemented yet",
        'f:18: Foo: kind: unknown kind "Foo" (kinds: VirtualService, DestinationRule, ServiceEntry, '
        "WorkloadEntry, Gateway, PeerAuthentication, AuthorizationPolicy, LocalRateLimit)",
        "f:18: Foo: metadata: is required (give metadata.name)",
    ]
    with pytest.raises(ConfigError) as error:
        load_text(text, "f").ok()
    assert len(error.value.problems) == 5
    assert json.loads(error.value.to_json())["errors"][1] == {
        "severity": "error",
        "file": "f",
        "line": 15,
        "kind": "WorkloadEntry",
        "namespace": "default",
        "name": "w",
        "path": "spec.weight",
        "message": "must be a whole number, not a string",
        "text": messages(text)[1],
    }


def test_an_error_prints_a_bounded_number_of_lines() -> None:
    error = ConfigError([Problem("x")] * (MAX_SHOWN + 7))
    assert str(error).splitlines()[-2:] == ["x", "... and 7 more"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "a: 1\nb: 2\na: 3\n",
            'f:3: the key "a" is given twice (plain YAML would keep the last and drop the first silently)',
        ),
        (
            "a: {b: 1, b: 1}",
            'f:1: the key "b" is given twice (plain YAML would keep the last and drop the first silently)',
        ),
        ("a: [", "f:2: is not valid YAML: while parsing a flow node did not find expected node content"),
        (
            "\ta: 1",
            "f:1: is not valid YAML: while scanning for the next token found character that cannot "
            "start any token",
        ),
        ("a: *b", "f:1: *b: there is no such anchor"),
        ("a: &x [*x]", "f:1: *x stands inside of what it names"),
        (
            "a: !!python/object:os.system x",
            'f:1: the tag "tag:yaml.org,2002:python/object:os.system" is not supported',
        ),
        ("a: !!binary aGk=", 'f:1: the tag "tag:yaml.org,2002:binary" is not supported'),
        ("a: !local {}", 'f:1: the tag "!local" is not supported'),
        ("[a]: 1", "f:1: a key must be a plain value"),
        ("1.5: 1", "f:1: 1.5 cannot be a key (put it in quotes)"),
        ("~: 1", "f:1: None cannot be a key (put it in quotes)"),
        ("a: {<<: 5}", "f:1: << needs a mapping"),
        ("a: 1e" + "9" * 70, None),
        ("a: 0x" + "f" * 70, None),
        (b"a: \xff", "f:1: is not UTF-8"),
        (b"a: b\n\nc: \xff", "f:3: is not UTF-8"),
        ("a: \x00", "f: is not valid YAML: "),
    ],
)
def test_what_is_not_read(text: str | bytes, problem: str | None) -> None:
    found = messages(text)
    assert found
    if problem is not None:
        assert found[0].startswith(problem)


def test_a_surrogate_is_not_utf_8() -> None:
    assert messages("a: \ud800") == ["f: is not UTF-8"]


def test_anchors_and_merge_keys() -> None:
    text = """\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: w}
spec:
  labels: &l {a: "1", b: "2"}
  address: &a 10.0.0.1
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: v}
spec:
  <<: [{address: 10.0.0.2, weight: 3}, {weight: 4}]
  weight: 5
  labels: {<<: {a: x, c: z}, a: "9"}
"""
    assert [r.spec for r in load_text(text).ok()] == [
        {"labels": {"a": "1", "b": "2"}, "address": "10.0.0.1"},
        {"weight": 5, "labels": {"a": "9", "c": "z"}, "address": "10.0.0.2"},
    ]


@pytest.mark.parametrize("nest", ["- ", "[", "{a: ", "[{a: ", "? ", "&a [", "a:\n", "? - "])
def test_absurd_nesting_is_refused_not_followed(nest: str) -> None:
    """In a process of its own: what recurses in C would take the test run along."""
    code = (
        "import sys; from fastmesh.model.load import load_text; "
        f"sys.exit(0 if load_text({nest!r} * 100_000).problems else 3)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_alias_bomb_is_refused() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    assert messages("\n".join(rows)) == [
        f"f:7: more than {yamldoc.MAX_NODES} values after aliases are expanded"
    ]


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamldoc, "MAX_DOCUMENTS", 3)
    assert "f:4: more than 3 documents" in messages("--- {}\n" * 4)
    monkeypatch.setattr("fastmesh.model.load.MAX_BYTES", 1024)
    assert messages("#" * 1025) == ["f: larger than 0 MiB"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("true", True),
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-3", -3),
        ("0x1f", 31),
        ("010", 8),
        ("1_000", 1000),
        ("1.5", 1.5),
        (".inf", float("inf")),
        ("'12'", "12"),
        ("2026-01-01", "2026-01-01"),
        ("1:30", 90),
        ("a", "a"),
        ("=", "="),
        ("!!str 12", "12"),
        ("!!int '12'", 12),
        ("|\n  a\n  b", "a\nb"),
    ],
)
def test_scalars_are_read_as_kubectl_reads_them(written: str, read: object) -> None:
    reader = yamldoc.Reader("f", [])
    assert [data for data, _, _ in reader.documents(f"a: {written}")] == [{"a": read}]


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("\ufeff" + WORKLOAD)
    assert [r.name for r in load_file(str(path)).ok()] == ["w"]
    assert [str(p) for p in load_file(str(tmp_path)).problems] == [
        f"{tmp_path}: cannot be read: Is a directory"
    ]
    assert load_file("a\0b").problems


def test_problems_are_bounded() -> None:
    labels = {f"a {i}": "x" for i in range(4000)}
    doc = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": {"name": "w", "labels": labels},
        "spec": {"address": "10.0.0.1", "labels": labels},
    }
    problems = load_dicts([doc, doc], "f").problems
    assert len(problems) == MAX_PROBLEMS + 1
    assert messages("a: 1\n" * (MAX_PROBLEMS + 2))[MAX_PROBLEMS:][0].endswith("the rest is not checked")
    assert str(problems[-1]) == "f: too many problems: the rest is not checked"


def test_plain_data() -> None:
    loaded = load_dicts([{"kind": "WorkloadEntry"}, 5], "<api>")
    assert [str(p) for p in loaded.problems][-1] == "<api>: a resource must be a mapping, not a whole number"


def test_paths() -> None:
    assert render_path(("spec", "http", 0, "match", 1, "headers", "x-y", "a.b", 'c"d')) == (
        'spec.http[0].match[1].headers.x-y["a.b"]["c\\"d"]'
    )


def test_bytes_that_are_anything_do_not_crash_it() -> None:
    """Mutations of a good text: problems or resources, never another exception."""
    rng = random.Random(7)
    base = (WORKLOAD + "---\n" + WORKLOAD).encode()
    for _ in range(2000):
        raw = bytearray(base)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(raw))
            raw[at : at + rng.randint(0, 3)] = bytes(
                rng.choice(b"\x00\n\t :-[]{}&*!|>'\"%@`#?,~x0\xc3\xff") for _ in range(rng.randint(0, 3))
            )
        loaded = load_text(bytes(raw))
        assert loaded.problems or loaded.resources or not raw.strip()
