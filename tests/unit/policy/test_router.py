"""policy/router: each matcher by table, then everything at once against a router written in plain Python."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shim.policy_shim import Request, Router
from shim.shm_shim import Frozen, host_hash_of

from helpers.irconf import cluster, config, packed, route, vhost


def router(*vhosts: dict[str, Any], **more: Any) -> Router:
    frozen = Frozen(packed(config(*vhosts, **more)))
    assert frozen.check() is None
    made = Router(frozen)
    assert made.load() == 0
    return made


def picked(r: Router, **request: Any) -> str | None:
    """The virtual host that a request reaches."""
    found = r.match(Request(**request))
    return found[0] if found else None


# --- hosts

DOMAINS = [
    "a.com",
    "b.com:8080",
    "*.a.com",
    "*.x.a.com",
    "*.a.com:99",
    "*.y.a.com:77",
    "reviews",
    "reviews:9080",
    "[::2]",
]


@pytest.mark.parametrize(
    ("host", "want"),
    [
        ("a.com", "a.com"),
        ("A.CoM", "a.com"),
        ("a.com.", "a.com"),
        ("a.com:80", "a.com"),
        ("a.com.:80", "a.com"),
        ("a.com:", "a.com"),
        ("b.com:8080", "b.com:8080"),
        ("b.com", None),
        ("b.com:8081", None),
        ("B.com.:8080", "b.com:8080"),
        ("q.a.com", "*.a.com"),
        ("q.r.a.com", "*.a.com"),
        ("q.x.a.com", "*.x.a.com"),
        ("x.a.com", "*.a.com"),
        ("q.a.com:99", "*.a.com:99"),
        ("q.x.a.com:99", "*.x.a.com"),
        ("q.y.a.com:77", "*.y.a.com:77"),
        ("q.y.a.com:78", "*.a.com"),
        (".a.com", None),
        ("aa.com", None),
        ("com", None),
        ("", None),
        (".", None),
        (":80", None),
        ("reviews", "reviews"),
        ("reviews:9080", "reviews:9080"),
        ("reviews:9081", "reviews"),
        ("[::2]:80", "[::2]"),
        ("[::2]", "[::2]"),
        ("a.com:123456", None),
        ("a.com:8x", None),
        ("x" * 300, None),
        ("x" * 249 + ".a.com", None),
        ("x" * 247 + ".a.com", "*.a.com"),
        ("." * 120 + "a.com", "*.a.com"),
        ("a" * 20000, None),
    ],
)
def test_host(host, want):
    assert picked(router(*[vhost([d], route()) for d in DOMAINS]), host=host.encode()) == want


def test_a_catch_all_takes_what_no_other_host_takes():
    r = router(vhost(["*"], route(), name="any"), vhost(["a.com"], route()))
    for host in (b"", b"x", b"q.a.com:80", b"x" * 1000):
        assert picked(r, host=host) == "any"
    assert picked(r, host=b"a.com") == "a.com"


def test_a_host_without_a_matching_route_does_not_fall_back():
    r = router(vhost(["*"], route()), vhost(["a.com"], route(path={"op": "exact", "value": "/x"})))
    assert picked(r, host=b"a.com", path=b"/y") is None


@given(
    st.sets(st.from_regex(r"[a-c]{1,3}(\.[a-c]{1,2}){0,3}", fullmatch=True), min_size=1, max_size=60),
    st.data(),
)
def test_the_hash_table_is_a_dict(domains, data):
    r = router(*[vhost([d], route()) for d in domains])
    for host in data.draw(
        st.lists(st.sampled_from(sorted(domains)) | st.from_regex(r"[a-c.]{1,9}", fullmatch=True))
    ):
        want = host.removesuffix(".")
        assert picked(r, host=host.encode()) == (want if want in domains else None)


def test_hosts_of_equal_bucket_are_told_apart():
    names = [f"h{i}" for i in range(4000)]
    buckets: dict[int, list[str]] = {}
    for name in names:
        buckets.setdefault(host_hash_of(name.encode()) & 1023, []).append(name)
    crowded = max(buckets.values(), key=len)
    others = [n for n in names if n not in crowded][: 300 - len(crowded)]
    r = router(*[vhost([n], route()) for n in [*crowded, *others]])
    for name in crowded:
        assert picked(r, host=name.encode()) == name


# --- paths


@pytest.mark.parametrize(
    ("match", "path", "covered"),
    [
        (None, "/a", 1),
        (None, "*", 0),
        (("exact", "/a"), "/a", 2),
        (("exact", "/a"), "/a/", None),
        (("exact", "/a"), "/A", None),
        (("prefix", "/a"), "/ab", 2),
        (("prefix", "/a"), "/", None),
        (("prefix", ""), "/x", 0),
        (("prefix", "/a/"), "/a", None),
        (("suffix", ".js"), "/x.js", 5),
        (("suffix", ".js"), ".j", None),
        (("regex", "/v[0-9]+/.*"), "/v12/x", 6),
        (("regex", "/v[0-9]"), "/v12", None),
        (("regex", "a"), "/a", None),
        (("path_prefix", "/a"), "/a", 2),
        (("path_prefix", "/a"), "/a/b", 2),
        (("path_prefix", "/a"), "/ab", None),
        (("path_prefix", "/a/"), "/a", 2),
        (("path_prefix", "/"), "/x", 0),
        (("path_prefix", "/a/b"), "/a", None),
        (("exact", "/a", True), "/A", 2),
        (("prefix", "/aB", True), "/Abc", 3),
        (("suffix", ".JS", True), "/x.js", 5),
        (("path_prefix", "/A", True), "/a/b", 2),
    ],
)
def test_path(match, path, covered):
    more = {}
    if match:
        more["path"] = {"op": match[0], "value": match[1], "ignore_case": len(match) > 2}
    found = router(vhost(["*"], route(**more))).match(Request(path=path.encode()))
    assert (found and found[3]) == covered


def test_the_first_route_that_matches_wins():
    routes = [
        route(
            "one",
            path={"op": "prefix", "value": "/a/"},
            conds=[{"on": "method", "op": "exact", "value": "PUT"}],
        ),
        route("two", path={"op": "prefix", "value": "/a"}),
        route("three", path={"op": "exact", "value": "/a/b"}),
    ]
    r = router(vhost(["*"], *routes))
    assert r.match(Request(path=b"/a/b"))[1] == "two"
    assert r.match(Request(path=b"/a/b", method=b"PUT"))[1] == "one"
    assert r.match(Request(path=b"/b")) is None


# --- conditions


def header(op: str, value: str = "", name: str = "X-User", **more: Any) -> dict[str, Any]:
    return {"on": "header", "op": op, "name": name, "value": value, **more}


def query(op: str, value: str = "", name: str = "k", **more: Any) -> dict[str, Any]:
    return {"on": "query", "op": op, "name": name, "value": value, **more}


USER = (b"x-user", b"bob")


@pytest.mark.parametrize(
    ("cond", "request_", "want"),
    [
        ({"on": "method", "op": "exact", "value": "GET"}, {}, True),
        ({"on": "method", "op": "exact", "value": "get"}, {}, False),
        ({"on": "method", "op": "regex", "value": "PUT|PURGE"}, {"method": b"PURGE"}, True),
        ({"on": "method", "op": "prefix", "value": "P"}, {"method": b"POST"}, True),
        ({"on": "method", "op": "exact", "value": "GET", "negate": True}, {"method": b"POST"}, True),
        ({"on": "authority", "op": "exact", "value": "a.com:80"}, {"host": b"a.com:80"}, True),
        ({"on": "authority", "op": "exact", "value": "a.com"}, {"host": b"A.com"}, False),
        ({"on": "authority", "op": "prefix", "value": "a."}, {"host": b"a.com"}, True),
        ({"on": "scheme", "op": "exact", "value": "http"}, {}, True),
        ({"on": "scheme", "op": "exact", "value": "https"}, {"tls": True}, True),
        ({"on": "scheme", "op": "exact", "value": "https"}, {"absolute": True, "https": True}, True),
        ({"on": "scheme", "op": "exact", "value": "http"}, {"absolute": True, "tls": True}, True),
        ({"on": "port", "op": "exact", "number": 80}, {}, True),
        ({"on": "port", "op": "exact", "number": 81}, {}, False),
        ({"on": "port", "op": "exact", "number": 81, "negate": True}, {}, True),
        (header("exact", "bob"), {"headers": [USER]}, True),
        (header("exact", "bob"), {"headers": [(b"X-USER", b"bob")]}, True),
        (header("exact", "Bob"), {"headers": [USER]}, False),
        (header("exact", "Bob", ignore_case=True), {"headers": [USER]}, True),
        (header("exact", "bob"), {"headers": [(b"x-use", b"bob")]}, False),
        (header("exact", "bob"), {"headers": [(b"x-user", b"bob", "dropped")]}, False),
        (header("prefix", "bo"), {"headers": [USER]}, True),
        (header("suffix", "ob"), {"headers": [USER]}, True),
        (header("regex", "b.b"), {"headers": [USER]}, True),
        (header("regex", "b."), {"headers": [USER]}, False),
        (header("regex", "B.B", ignore_case=True), {"headers": [USER]}, True),
        (header("regex", ".*"), {}, False),  # a missing field is not an empty one
        (header("regex", ".*"), {"headers": [(b"x-user", b"")]}, True),
        (header("prefix", ""), {}, False),
        (header("present"), {"headers": [USER]}, True),
        (header("present"), {"headers": [(b"x-user", b"")]}, True),
        (header("present"), {}, False),
        # repeated fields are one, joined by commas
        (header("exact", "bob"), {"headers": [USER, USER]}, False),
        (header("exact", "bob,eve"), {"headers": [USER, (b"a", b"b"), (b"X-User", b"eve")]}, True),
        (header("regex", "bob,.*,"), {"headers": [USER, (b"x-user", b"eve"), (b"x-user", b"")]}, True),
        (header("exact", "bob"), {"headers": [USER, (b"x-user", b"eve", "dropped")]}, True),
        # withoutHeaders
        (header("exact", "bob", negate=True), {"headers": [USER]}, False),
        (header("exact", "bob", negate=True), {"headers": [(b"x-user", b"eve")]}, True),
        (header("exact", "bob", negate=True), {}, True),
        (header("present", negate=True), {}, True),
        (header("present", negate=True), {"headers": [USER]}, False),
        (header("regex", ".*", negate=True), {}, True),
        (header("regex", "(bob)?", negate=True), {}, False),  # a missing field counts as empty here
        # well-known names are compared by number
        (header("exact", "x", name="User-Agent"), {"headers": [(b"user-agent", b"x")]}, True),
        (header("exact", "a=b", name="cookie"), {"headers": [(b"Cookie", b"a=b")]}, True),
        (query("exact", "v"), {"query": b"k=v"}, True),
        (query("exact", "v"), {"query": b"a=b&k=v&k=w"}, True),
        (query("exact", "w"), {"query": b"k=v&k=w"}, False),
        (query("exact", ""), {"query": b"k"}, True),
        (query("exact", ""), {"query": b"k=&a"}, True),
        (query("exact", "v=1"), {"query": b"k=v=1"}, True),
        (query("exact", "v"), {"query": b"kk=v&xk=v"}, False),
        (query("exact", "%76"), {"query": b"k=%76"}, True),
        (query("prefix", "v"), {"query": b"k=vw"}, True),
        (query("regex", "v+"), {"query": b"k=vv&"}, True),
        (query("present"), {"query": b"a&k"}, True),
        (query("present"), {"query": b""}, False),
        (query("present"), {"query": b"&&a=k"}, False),
        (query("present", negate=True), {"query": b"a=1"}, True),
    ],
)
def test_condition(cond, request_, want):
    r = router(vhost(["*"], route(conds=[cond])))
    tls = request_.pop("tls", False) if "tls" in request_ else False
    assert (r.match(Request(**request_), tls=tls) is not None) is want


def test_all_conditions_must_hold():
    conds = [header("exact", "1", name=f"x-{i}") for i in range(5)]
    r = router(vhost(["*"], route(conds=conds)))
    sent = [(b"x-%d" % i, b"1") for i in range(5)]
    assert r.match(Request(headers=sent)) is not None
    for i in range(5):
        assert r.match(Request(headers=[*sent[:i], *sent[i + 1 :]])) is None


def test_a_long_repeated_field_is_matched_to_its_end():
    sent = [(b"x-user", b"a" * 600)] * 99
    want = ",".join(["a" * 600] * 99)
    assert router(vhost(["*"], route(conds=[header("exact", want)]))).match(Request(headers=sent)) is not None


# --- weights and actions


def test_weights_split_the_random_number_exactly():
    dests = [{"cluster": name, "weight": w} for name, w in (("a", 95), ("zero", 0), ("b", 4), ("c", 1))]
    clusters = [cluster(name, 1) for name in ("a", "b", "c", "zero")]
    r = router(vhost(["*"], route(dests=dests)), clusters=clusters)
    counts: dict[str, int] = {}
    steps = 100 * 50
    for i in range(steps):
        name = r.match(Request(), rnd=(2**32 * i) // steps + 2**31 // steps)[2]
        counts[name] = counts.get(name, 0) + 1
    assert counts == {"a": 95 * 50, "b": 4 * 50, "c": 50}
    assert r.match(Request(), rnd=0)[2] == "a" and r.match(Request(), rnd=2**32 - 1)[2] == "c"


def test_an_unknown_cluster_is_a_match_without_one():
    assert router(vhost(["*"], route(to="gone"))).match(Request()) == ("*", "r", None, 1)


def test_redirects_and_direct_responses_have_no_destination():
    r = router(
        vhost(["a"], route(redirect={"authority": "b", "code": 302})),
        vhost(["b"], route(direct={"status": 404})),
    )
    assert r.match(Request(host=b"a")) == ("a", "r", None, 1)
    assert r.match(Request(host=b"b")) == ("b", "r", None, 1)


def test_a_table_that_is_not_there_has_no_route():
    assert router(vhost(["*"], route())).match(Request(), table=1) is None


def test_patterns_are_those_of_the_snapshot_that_was_loaded_last():
    def one(pattern):
        return router(vhost(["*"], route(path={"op": "regex", "value": pattern})))

    first = one("/a.*")
    assert first.match(Request(path=b"/ax"))
    second = one("/b.*")
    assert second.match(Request(path=b"/bx")) and not second.match(Request(path=b"/ax"))
    first.load()
    assert first.match(Request(path=b"/ax"))
    router(vhost(["*"], route()))  # loads none
    assert first.match(Request(path=b"/ax")) is None


# --- everything, against plain Python

WORDS = ["", "a", "b", "A", "ab", "a,b", "ba"]
REGEXES = ["a*", "a|b", "[ab]+", "(?i)a.*", ".*b", "", "a,b"]
OPS = ["exact", "prefix", "suffix", "regex", "present"]
PATHS = ["/", "/a", "/a/", "/a/b", "/A/b", "/ab", "*", "/b/a"]
LABELS = ["a", "b", "ab"]
names = st.lists(st.sampled_from(LABELS), min_size=1, max_size=4).map(".".join)
ports = st.sampled_from(["", "", ":80", ":8080"])
domains = st.one_of(st.just("*"), st.builds("{}{}{}".format, st.sampled_from(["", "*."]), names, ports))
FIELDS = ["x-a", "cookie", "X-B"]


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, Any]:
    on = draw(st.sampled_from(["method", "header", "header", "query", "authority", "scheme", "port"]))
    if on == "port":
        return {
            "on": on,
            "op": "exact",
            "number": draw(st.sampled_from([80, 81])),
            "negate": draw(st.booleans()),
        }
    op = draw(st.sampled_from(OPS))
    words = {
        "method": ["GET", "G", "POST"],
        "scheme": ["http", "https"],
        "authority": ["a", "a.b", "b:80"],
    }.get(on, WORDS)
    value = draw(st.sampled_from(REGEXES if op == "regex" else words))
    cond = {"on": on, "op": op, "value": value, "negate": draw(st.booleans())}
    if on in ("header", "query"):
        cond["name"] = draw(st.sampled_from(FIELDS if on == "header" else ["a", "b"]))
        cond["ignore_case"] = draw(st.booleans())
    return cond


paths = st.one_of(
    st.none(),
    st.builds(
        lambda op, value, fold: {"op": op, "value": value, "ignore_case": fold},
        st.sampled_from(["exact", "prefix", "suffix", "path_prefix"]),
        st.sampled_from(PATHS),
        st.booleans(),
    ),
    st.builds(
        lambda value: {"op": "regex", "value": value}, st.sampled_from(["/a.*", "/[^/]*", "/a/?", ".*b"])
    ),
)
routes = st.builds(
    lambda path, conds: {"path": path, "conds": conds} if path else {"conds": conds},
    paths,
    st.lists(conditions(), max_size=2),
)
requests = st.fixed_dictionaries(
    {
        "host": st.builds("{}{}{}".format, names, st.sampled_from(["", ".", ""]), ports).flatmap(
            lambda h: st.sampled_from([h, h.upper()])
        ),
        "path": st.sampled_from(PATHS),
        "query": st.sampled_from(["", "a", "a=a", "b=b&a=A", "a=&a=b", "b=a,b&&a=ab"]),
        "method": st.sampled_from(["GET", "POST", "X"]),
        "headers": st.lists(
            st.tuples(st.sampled_from(["x-a", "X-A", "Cookie", "x-b"]), st.sampled_from(WORDS)), max_size=4
        ),
    }
)


def value_holds(op: str, want: str, have: str, fold: bool) -> bool:
    if op == "present":
        return True
    if op == "regex":
        return re.fullmatch(want, have, re.IGNORECASE if fold else 0) is not None
    if fold:
        want, have = want.lower(), have.lower()
    return {"exact": have == want, "prefix": have.startswith(want), "suffix": have.endswith(want)}[op]


def cond_holds(cond: dict[str, Any], request: dict[str, Any], tls: bool) -> bool:
    on, op, want, fold = cond["on"], cond["op"], cond.get("value", ""), cond.get("ignore_case", False)
    if on == "port":
        return (cond["number"] == 80) != cond["negate"]
    if on == "header":
        values = [v for n, v in request["headers"] if n.lower() == cond["name"].lower()]
        have = ",".join(values) if values else None
        if (op, want) in (("regex", ".*"), ("prefix", ""), ("suffix", "")):
            op = "present"
        if have is None and cond["negate"] and op != "present":
            have = ""
    elif on == "query":
        pairs = [p.partition("=") for p in request["query"].split("&")] if request["query"] else []
        have = next((v for n, _, v in pairs if n == cond["name"]), None)
    else:
        have = {
            "method": request["method"],
            "authority": request["host"],
            "scheme": "https" if tls else "http",
        }[on]
    holds = have is not None and value_holds(op, want, have, fold)
    return holds != cond["negate"]


def path_holds(match: dict[str, Any] | None, path: str) -> bool:
    if match is None:
        return True
    op, want, fold = match["op"], match["value"], match.get("ignore_case", False)
    if op == "path_prefix":
        want = want.rstrip("/")
        if fold:
            want, path = want.lower(), path.lower()
        return path == want or path.startswith(want + "/")
    return value_holds(op, want, path, fold)


def vhost_of(domains: dict[str, int], host: str) -> int | None:
    name, port = re.fullmatch(r"(.*?)\.?(:\d+)?", host.lower()).groups()
    tries = [name + port, name] if port else [name]
    labels = name.split(".")
    for i in range(1, len(labels)):
        suffix = "*." + ".".join(labels[i:])
        tries += [suffix + port, suffix] if port else [suffix]
    return next((domains[t] for t in [*tries, "*"] if t in domains), None)


@settings(max_examples=400)
@given(
    st.lists(st.tuples(domains, st.lists(routes, min_size=1, max_size=5)), min_size=1, max_size=8),
    st.lists(st.tuples(requests, st.booleans()), min_size=1, max_size=12),
)
def test_against_plain_python(table, sent):
    compare(table, sent)


@settings(max_examples=300)
@given(
    st.lists(routes, min_size=13, max_size=40),
    st.lists(st.tuples(requests, st.booleans()), min_size=1, max_size=12),
)
def test_many_routes_against_plain_python(many, sent):
    """Above 12 routes they are found by an index of paths."""
    compare([("*", many)], sent)


def compare(table, sent):
    owners: dict[str, int] = {}
    for domain, _routes in table:
        owners.setdefault(domain, len(owners))
    by_domain = dict(reversed(table))
    hosts = [
        vhost([d], *[route(f"{d} {i}", **x) for i, x in enumerate(by_domain[d])], name=d) for d in owners
    ]
    r = router(*hosts)
    for request, tls in sent:
        at = vhost_of(owners, request["host"])
        want = None
        if at is not None:
            for one in hosts[at]["routes"]:
                path = path_holds(one.get("path"), request["path"])
                if path and all(cond_holds(c, request, tls) for c in one["conds"]):
                    want = one["name"]
                    break
        raw = {
            k: v.encode() if isinstance(v, str) else [(n.encode(), x.encode()) for n, x in v]
            for k, v in request.items()
        }
        found = r.match(Request(**raw), tls=tls)
        assert (found and found[1]) == want, request


def test_more_lengths_of_prefixes_than_the_index_has():
    made = [route(f"r{i}", path={"op": "prefix", "value": "/" + "x" * i + "/"}) for i in range(80)]
    r = router(vhost(["*"], *made, route("last"), name="v"))
    for i in range(80):
        path = b"/" + b"x" * i + b"/y"
        assert r.match(Request(host=b"a", path=path))[1] == f"r{i}"
    assert r.match(Request(host=b"a", path=b"/" + b"x" * 100))[1] == "last"


def test_the_first_of_all_that_match_counts_whatever_led_to_it():
    made = [
        route("any", conds=[{"on": "method", "op": "exact", "value": "PUT"}]),
        route("exact", path={"op": "exact", "value": "/a/b"}),
        route("prefix", path={"op": "prefix", "value": "/a"}),
        route("regex", path={"op": "regex", "value": "/a/c.*"}),
        route("longer", path={"op": "prefix", "value": "/a/"}),
        route("folded", path={"op": "exact", "value": "/Q/R", "ignore_case": True}),
        route("segments", path={"op": "path_prefix", "value": "/q/"}),
        *[route(f"fill{i}", path={"op": "exact", "value": f"/fill/{i}"}) for i in range(10)],
    ]
    r = router(vhost(["*"], *made, name="v"))

    def first(path: bytes, method: bytes = b"GET") -> str | None:
        found = r.match(Request(host=b"a", path=path, method=method))
        return found and found[1]

    assert [first(p) for p in (b"/a/b", b"/a", b"/a/c1", b"/ab")] == ["exact", "prefix", "prefix", "prefix"]
    assert first(b"/a/b", b"PUT") == "any"
    assert [first(p) for p in (b"/q/r", b"/q", b"/q/x", b"/qx")] == ["folded", "segments", "segments", None]
    assert first(b"/fill/7") == "fill7" and first(b"/fill/77") is None and first(b"") is None
