"""Random structures in the shape of the schemas never crash it: there is an IR, or a ConfigError."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastmesh.compile.cells import CellMap
from fastmesh.compile.edge import compile_edge
from fastmesh.compile.fragment import localize
from fastmesh.compile.services import Workload, World, compile_services
from fastmesh.compile.snapshot import pack
from fastmesh.model.fields import Bool, Bytes, Duration, Enum, Int, List, Map, Message, Number, Type
from fastmesh.model.formats import is_ip
from fastmesh.model.load import load_dicts
from fastmesh.model.problems import ConfigError, Origin, Problem, Reporter, errors_of
from fastmesh.model.schema import KINDS
from fastmesh.model.validate import validate

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
# Few words, so that references meet what they refer to.
WORDS = [
    "a.example",
    "b.example",
    "*.example",
    "*",
    "reviews",
    "v1",
    "v2",
    "gw",
    "mesh",
    "default/gw",
    "http",
    "https",
    "80",
    "10.0.0.1",
    "::1",
    "/",
    "/a",
    "GET",
    "x-user",
    "app",
    "[a-z]+",
    "(",
    "%x%",
    "c.crt",
    ":authority",
    "connect-failure",
    "HTTP",
    "HTTPS",
    "HTTP2",
    "GRPC",
    "grpc-api",
    "UPGRADE",
    "UNAVAILABLE",
    "reviews.default.svc.cluster.local",
    "0s",
    "",
]


def accepted(type_: Type | None, value: Any) -> bool:
    found: list[Problem] = []
    if type_ is not None:
        type_.check(value, Reporter(Origin(), found))
    return not errors_of(found)


def values(type_: Type) -> st.SearchStrategy[Any]:
    """What a type takes, as far as it can be told without what stands beside it."""
    if isinstance(type_, Message):
        return messages(type_)
    if isinstance(type_, List):
        return st.lists(values(type_.item), min_size=min(type_.low, 1), max_size=3)
    if isinstance(type_, Map):
        keys = [w for w in WORDS if accepted(Map(Any_(), type_.key), {w: 1})]
        return st.dictionaries(st.sampled_from(keys), values(type_.value), max_size=2)
    if isinstance(type_, Enum):
        return st.sampled_from(list(type_.values))
    if isinstance(type_, Int):
        return st.sampled_from([v for v in (1, 80, 443, 200, 301, type_.high) if accepted(type_, v)])
    if isinstance(type_, Duration):
        return st.sampled_from(["1s", "1ms", "1h"])
    if isinstance(type_, Number):
        return st.sampled_from([type_.low, (type_.low + type_.high) / 2, type_.high])
    if isinstance(type_, Bool):
        return st.booleans()
    if isinstance(type_, Bytes):
        return st.sampled_from(["", "AAE="])
    return st.sampled_from([w for w in WORDS if accepted(type_, w)])


class Any_(Type):
    """Takes everything."""

    def check(self, value: Any, r: Reporter) -> Any:
        return value


@st.composite
def messages(draw: st.DrawFn, message: Message) -> dict[str, Any]:
    """Fields that contradict each other are taken out again, so that most of what comes out is valid."""
    known = {k: values(f.type) for k, f in message.fields.items() if f.type is not None}
    fields = draw(st.lists(st.sampled_from(list(known)), unique=True, max_size=5)) if known else []
    made = {k: draw(known[k]) for k in [*message.required, *(f for f in fields if f not in message.required)]}
    for k in fields:
        if accepted(message, made):
            break
        if k not in message.required:
            del made[k]
    return made


@st.composite
def documents(draw: st.DrawFn, kind: str) -> Any:
    """A document of a kind; one in four has junk somewhere."""
    versions, schema = KINDS[kind]
    spec = draw(messages(schema))
    if kind == "VirtualService":
        spec.setdefault("hosts", ["a.example"])
        spec.setdefault("http", [{"route": [{"destination": {"host": "a.example"}}]}])
        spec["gateways"] = draw(st.sampled_from([["gw"], ["mesh"], ["gw", "mesh"]]))
    doc = {
        "apiVersion": versions[0],
        "kind": kind,
        "metadata": {"name": draw(st.sampled_from(["gw", "x", "y"]))},
        "spec": spec,
    }
    if draw(st.integers(0, 3)) == 0:
        at: Any = doc
        while True:
            key = draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
            if not isinstance(at[key], (dict, list)) or not at[key] or draw(st.integers(0, 3)) == 0:
                at[key] = draw(JUNK)
                break
            at = at[key]
    return doc


DOCUMENTS = st.lists(st.one_of([documents(k) for k in KINDS]) | JUNK, max_size=6)
WORKLOAD = Workload(
    "w",
    "reviews",
    "default",
    "10.0.0.7",
    15006,
    9080,
    "spiffe://cluster.local/ns/default/sa/r",
    {"version": "v1"},
)
FUZZ = settings(max_examples=100, suppress_health_check=list(HealthCheck))

# What the shape alone would rarely hit upon: objects that hold together, so that the compiler is reached.
SOUND: list[dict[str, Any]] = [
    {"apiVersion": KINDS[kind][0][0], "kind": kind, "metadata": {"name": name}, "spec": spec}
    for kind, name, spec in [
        (
            "Gateway",
            "gw",
            {"servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]},
        ),
        (
            "ServiceEntry",
            "x",
            {
                "hosts": ["a.example", "b.example"],
                "resolution": "STATIC",
                "ports": [{"number": 80, "name": "http"}],
                "endpoints": [{"address": "10.0.0.1", "labels": {"app": "v1"}}],
            },
        ),
        (
            "DestinationRule",
            "x",
            {"host": "a.example", "subsets": [{"name": "v1", "labels": {"app": "v1"}}, {"name": "v2"}]},
        ),
    ]
]


def check_edge(docs: list[Any]) -> None:
    loaded = load_dicts(docs)
    try:
        config = compile_edge(loaded.resources, Path("/nowhere"), problems=loaded.problems)
    except ConfigError as e:
        assert errors_of(e.problems)
        assert str(e) and e.to_json()
        return
    assert not errors_of(loaded.problems)
    msgpack.packb(config)
    check_pack(config)
    names = {c["name"] for c in config["clusters"]}
    for table in config["tables"]:
        for host in table["virtual_hosts"]:
            for route in host["routes"]:
                assert len(route.keys() & {"dests", "redirect", "direct"}) == 1
                # an edge's file holds all that it routes to
                assert {d["cluster"] for d in route.get("dests", ())} <= names


def check_pack(config: Any) -> None:
    """What is compiled can be packed for the workers (names resolved, as an agent does first)."""
    for cluster in config["clusters"]:
        for i, endpoint in enumerate(cluster["endpoints"]):
            if not is_ip(endpoint["address"]):
                endpoint["address"] = f"192.0.2.{i + 1}"
    pack(config, CellMap())


def check_mesh(docs: list[Any]) -> None:
    resources = load_dicts(docs).resources
    assert isinstance(validate(resources, services={WORKLOAD.host}), list)
    world = World(resources, [WORKLOAD])
    for host, fragment in compile_services(world).items():
        assert fragment is not None and fragment["host"] == host
        msgpack.packb(fragment)
        table = {"name": "outbound", "virtual_hosts": localize(fragment, "default", {"app": "a"})}
        identity = {"name": "identity", "server": False, "cert": b"c", "key": b"k", "ca": b"a"}
        contexts = [
            identity,
            *({k: v for k, v in c.items() if not k.endswith("_file")} for c in fragment["tls"]),
        ]
        check_pack(
            {
                "node_id": "x",
                "listeners": [],
                "tables": [table],
                "clusters": fragment["clusters"],
                "tls": contexts,
            }
        )
        for name in ("reviews", host):
            world.resolve(name, "default")
    assert compile_services(world, [WORKLOAD.host])[WORKLOAD.host] is not None


@FUZZ
@given(DOCUMENTS)
def test_anything(docs: list[Any]) -> None:
    check_edge(docs)
    check_mesh(docs)


@FUZZ
@given(st.lists(documents("VirtualService"), min_size=1, max_size=2))
def test_rules_over_what_holds_together(docs: list[Any]) -> None:
    check_edge([*SOUND, *docs])
    check_mesh([*SOUND, *docs])


@FUZZ
@given(
    messages(KINDS["DestinationRule"][1]), messages(KINDS["ServiceEntry"][1]), messages(KINDS["Gateway"][1])
)
def test_services_under_rules_that_hold_together(rule: Any, entry: Any, gateway: Any) -> None:
    """Drawn fields over what is valid without them."""
    http = [{"route": [{"destination": {"host": "b.example", "port": {"number": 80}}}]}]
    spec = {"hosts": ["*"], "gateways": ["gw", "mesh"], "http": http}
    docs = [
        {**SOUND[0], "spec": {**SOUND[0]["spec"], **gateway}},
        {**SOUND[1], "spec": {**SOUND[1]["spec"], **entry, "hosts": ["a.example", "b.example"]}},
        {**SOUND[2], "spec": {**rule, "host": "b.example"}},
        {
            "apiVersion": KINDS["VirtualService"][0][0],
            "kind": "VirtualService",
            "metadata": {"name": "vs"},
            "spec": spec,
        },
    ]
    check_edge(docs)
    check_mesh(docs)
