"""Authorization: the compiled tables against an oracle that is written from Istio's documentation, field by
field, and knows nothing of tables."""

from __future__ import annotations

import ipaddress
import random
import re
from typing import Any

import pytest
from shim.authz_shim import Judge
from shim.shm_shim import Frozen

from helpers.irconf import config, packed, route, vhost

Request = dict[str, Any]


def judge_of(*policies: dict[str, Any], port: int = 0) -> Judge:
    made = config(vhost(["*"], route()))
    made["listeners"][0]["authz"] = {"policies": list(policies), "port": port}
    return Judge(Frozen(packed(made)))


def policy(name: str, action: str, *rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "namespace": "default", "action": action, "rules": list(rules), **more}


# ---- the oracle ------------------------------------------------------------------------------------------


def text_fits(want: str, have: str | None, fold: bool = False) -> bool:
    """Presence, suffix, prefix, exact."""
    if not have:
        return False
    if fold:
        want, have = want.lower(), have.lower()
    if want == "*":
        return True
    if want.startswith("*"):
        return have.endswith(want[1:])
    return have.startswith(want[:-1]) if want.endswith("*") else have == want


def path_fits(want: str, have: str | None) -> bool:
    if have is not None and "{" in want:
        pattern = re.escape(want).replace(r"\{\*\*\}", ".*").replace(r"\{\*\}", "[^/]+")
        return re.fullmatch(pattern, have, re.S) is not None
    return text_fits(want, have)


def namespace_fits(want: str, have: str | None) -> bool:
    return bool(have) and re.fullmatch(re.escape(want).replace(r"\*", ".*"), have or "") is not None


def address_fits(want: str, have: str | None) -> bool:
    if have is None:
        return False
    net, ip = ipaddress.ip_network(want, strict=False), ipaddress.ip_address(have)
    return net.version == ip.version and ip in net


def identity(q: Request) -> tuple[str | None, str | None, str | None]:
    """(principal, namespace, namespace/account)"""
    if not q["identity"]:
        return None, None, None
    found = re.fullmatch(r"[^/]+/ns/([^/]+)/sa/([^/]+)", q["identity"])
    return (q["identity"], found[1], f"{found[1]}/{found[2]}") if found else (q["identity"], None, None)


def header(q: Request, name: str) -> str | None:
    values = [value for key, value in q["headers"] if key.lower() == name.lower()]
    return ",".join(values) if values else None


def header_fits(want: str, have: str | None) -> bool:
    return have is not None and (want == "*" or text_fits(want, have))


def attribute_fits(field: str, want: str, q: Request) -> bool:
    principal, namespace, account = identity(q)
    if field in ("principals", "source.principal"):
        return text_fits(want, principal)
    if field in ("namespaces", "source.namespace"):
        return namespace_fits(want, namespace)
    if field == "serviceAccounts":
        return account == (want if "/" in want else f"default/{want}")
    if field in ("ipBlocks", "source.ip"):
        return address_fits(want, q["source"])
    if field in ("remoteIpBlocks", "remote.ip"):
        return address_fits(want, q["remote"])
    if field == "destination.ip":
        return address_fits(want, q["dest"])
    if field in ("ports", "destination.port"):
        return int(want) == q["port"]
    if field == "hosts":
        return text_fits(want, q["host"], fold=True)
    if field == "methods":
        return text_fits(want, q["method"])
    if field == "paths":
        return path_fits(want, q["path"])
    return header_fits(want, header(q, field[len("request.headers[") : -1]))


def is_http(field: str) -> bool:
    return field in ("hosts", "methods", "paths") or field.startswith("request.headers")


def part_fits(part: dict[str, list[str]], q: Request) -> bool:
    for name, values in part.items():
        negate = name.startswith("not")
        field = name[3].lower() + name[4:] if negate else name
        if is_http(field) and not q["http"]:
            continue  # of a DENY: a missing attribute matches. An ALLOW has been left out before.
        if values and any(attribute_fits(field, v, q) for v in values) == negate:
            return False
    return True


def parts_of(rule: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    whens = []
    for when in rule.get("when", ()):
        if when.get("values"):
            whens.append({when["key"]: when["values"]})
        if when.get("notValues"):
            whens.append({"not" + when["key"][0].upper() + when["key"][1:]: when["notValues"]})
    sources = [each["source"] for each in rule.get("from", ())] or [{}]
    return sources, [each["operation"] for each in rule.get("to", ())] or [{}], whens


def rule_fits(rule: dict[str, Any], action: str, q: Request) -> bool:
    sources, operations, whens = parts_of(rule)
    if not q["http"] and action == "ALLOW":
        names = [name for part in (*sources, *operations, *whens) for name in part]
        if any(is_http(n[3].lower() + n[4:] if n.startswith("not") else n) for n in names):
            return False
    return (
        any(part_fits(s, q) for s in sources)
        and any(part_fits(o, q) for o in operations)
        and all(part_fits(w, q) for w in whens)
    )


def first_fit(policies: list[dict[str, Any]], action: str, q: Request, dry: bool = False) -> str | None:
    for p in policies:
        if p["action"] == action and bool(p.get("dry_run")) == dry:
            for i, rule in enumerate(p["rules"]):
                if rule_fits(rule, action, q):
                    return f"ns[default]-policy[{p['name']}]-rule[{i}]"
    return None


def oracle(policies: list[dict[str, Any]], q: Request) -> dict[str, Any]:
    def verdict(dry: bool) -> tuple[bool, str]:
        denied = first_fit(policies, "DENY", q, dry)
        if denied is not None:
            return True, denied
        allowed = first_fit(policies, "ALLOW", q, dry)
        wanted = any(p["action"] == "ALLOW" and bool(p.get("dry_run")) == dry for p in policies)
        return wanted and allowed is None, allowed or ""

    denied, rule = verdict(False)
    dry_denied, dry_rule = verdict(True)
    tried = any(
        p.get("dry_run") and p["action"] != "AUDIT" and (p["rules"] or p["action"] == "ALLOW")
        for p in policies
    )
    return {
        "denied": denied,
        "rule": rule,
        "audit": first_fit([{**p, "dry_run": False} for p in policies], "AUDIT", q),
        "dry": dry_rule,
        "dry_allowed": tried and not dry_denied,
        "dry_denied": dry_denied,
    }


# ---- what is generated: few values, so that they meet --------------------------------------------------

IDENTITIES = [
    "",
    "td/ns/default/sa/web",
    "td/ns/prod/sa/web",
    "other/ns/prod/sa/batch",
    "td/vm/7",
    "td/ns/a/sa/b/c",
]
ADDRESSES = ["10.0.0.1", "10.0.1.7", "192.0.2.9", "2001:db8::1", "2001:db8:1::2"]
NETS = [
    "10.0.0.0/8",
    "10.0.0.0/23",
    "10.0.0.1",
    "0.0.0.0/0",
    "2001:db8::/32",
    "::/0",
    "2001:db8::1",
    "192.0.2.8/29",
]
PATHS = ["/", "/a", "/a/b", "/a/b/c", "/ab", "/admin", "/admin/x", "/x/admin", "/a/b/", "*"]
WANT = {
    "principals": ["*", "td/ns/default/sa/web", "td/*", "*/web", "other/ns/prod/sa/batch", "td/ns/*", "*7"],
    "namespaces": ["default", "prod", "*", "pro*", "*ult", "d*t", "a"],
    "serviceAccounts": ["web", "prod/web", "prod/batch", "a/b"],
    "ipBlocks": NETS,
    "remoteIpBlocks": NETS,
    "hosts": ["a.example.com", "*.example.com", "A.*", "*", "b.example.com:80", "*:80"],
    "methods": ["GET", "POST", "*", "P*", "get"],
    "paths": [
        "/a",
        "/a/*",
        "*/b",
        "*",
        "/{*}/b",
        "/a/{**}",
        "/{**}/c",
        "/a/{*}/{*}",
        "/admin*",
        "/{*}",
        "/{**}",
    ],
    "ports": ["80", "9080"],
}
KEYS = {
    "source.ip": NETS,
    "remote.ip": NETS,
    "destination.ip": NETS,
    "source.namespace": WANT["namespaces"],
    "source.principal": WANT["principals"],
    "destination.port": WANT["ports"],
    "request.headers[x-a]": ["1", "*", "1*", "*2", "1,2"],
    "request.headers[X-B]": ["*", "v"],
}
SOURCES = ["principals", "namespaces", "ipBlocks", "remoteIpBlocks"]
OPERATIONS = ["hosts", "methods", "paths", "ports"]


def some(r: random.Random, values: list[str]) -> list[str]:
    return r.sample(values, r.choice([1, 1, 2, 3]) if len(values) > 2 else 1)


def part(r: random.Random, names: list[str]) -> dict[str, list[str]]:
    if names is SOURCES and r.random() < 0.15:
        names = ["serviceAccounts"]
    made = {}
    for name in r.sample(names, r.choice([1, 1, 2]) if len(names) > 1 else 1):
        negate = r.random() < 0.3
        made["not" + name[0].upper() + name[1:] if negate else name] = some(r, WANT[name])
    return made


def any_rule(r: random.Random) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if r.random() < 0.6:
        made["from"] = [{"source": part(r, SOURCES)} for _ in range(r.choice([1, 2, 3]))]
    if r.random() < 0.6:
        made["to"] = [{"operation": part(r, OPERATIONS)} for _ in range(r.choice([1, 2, 3]))]
    if r.random() < 0.4:
        made["when"] = [
            {"key": key, r.choice(["values", "notValues"]): some(r, KEYS[key])}
            for key in r.choices(list(KEYS), k=r.choice([1, 2, 3]))
        ]
    return made


def any_policies(r: random.Random) -> list[dict[str, Any]]:
    made = []
    for i in range(r.choice([1, 2, 3, 5])):
        action = r.choice(["ALLOW", "ALLOW", "DENY", "AUDIT"])
        rules = [any_rule(r) for _ in range(r.choice([0, 1, 2, 4]))]
        dry = action != "AUDIT" and r.random() < 0.25
        made.append(policy(f"p{i}", action, *rules, **({"dry_run": True} if dry else {})))
    return made


def any_request(r: random.Random) -> Request:
    headers = [("x-a", r.choice(["1", "2", "12", ""])) for _ in range(r.choice([0, 1, 2]))]
    return {
        "http": r.random() < 0.85,
        "host": r.choice(["", "a.example.com", "A.Example.COM", "b.example.com:80", "c"]),
        "path": r.choice(PATHS),
        "method": r.choice(["GET", "POST", "PUT"]),
        "headers": headers + ([("x-b", "v")] if r.random() < 0.3 else []),
        "identity": r.choice(IDENTITIES),
        "source": r.choice(ADDRESSES),
        "remote": r.choice(ADDRESSES),
        "dest": r.choice([None, *ADDRESSES]),
        "port": r.choice([80, 9080]),
    }


def asked(judge: Judge, q: Request) -> dict[str, Any]:
    def raw(address: str | None) -> bytes:
        return ipaddress.ip_address(address).packed if address else b""

    return judge.judge(
        http=q["http"],
        host=q["host"].encode(),
        path=q["path"].encode(),
        method=q["method"].encode(),
        headers=[(k.encode(), v.encode()) for k, v in q["headers"]],
        identity=b"spiffe://" + q["identity"].encode() if q["identity"] else b"",
        source=raw(q["source"]),
        remote=raw(q["remote"]),
        dest=raw(q["dest"]),
        port=q["port"],
    )


@pytest.mark.parametrize("seed", range(40))
def test_a_matrix_of_policies_and_requests(seed: int) -> None:
    r = random.Random(seed)
    for _ in range(20):
        policies = any_policies(r)
        judge = judge_of(*policies)
        for _ in range(40):
            q = any_request(r)
            assert asked(judge, q) == oracle(policies, q), (policies, q)


# ---- what the matrix would meet by chance only --------------------------------------------------


def test_no_rules_allow_nothing_and_an_empty_rule_everything() -> None:
    q = any_request(random.Random(1))
    assert asked(judge_of(policy("none", "ALLOW")), q)["denied"]
    assert not asked(judge_of(policy("all", "ALLOW", {})), q)["denied"]
    assert asked(judge_of(policy("all", "ALLOW", {}), policy("no", "DENY", {})), q)["denied"]
    assert not asked(judge_of(policy("no", "DENY")), q)["denied"]


def test_a_trailing_dot_hides_no_host() -> None:
    judge = judge_of(policy("d", "DENY", {"to": [{"operation": {"hosts": ["admin.example.com", "x:80"]}}]}))
    for host in (b"admin.example.com", b"admin.example.com.", b"ADMIN.example.com", b"x.:80", b"X:80"):
        assert judge.judge(host=host)["denied"], host
    assert not judge.judge(host=b"admin.example.comx")["denied"]


def test_an_ipv4_peer_of_a_dual_stack_socket_is_one() -> None:
    judge = judge_of(policy("d", "DENY", {"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}]}))
    assert judge.judge(source=b"\0" * 10 + b"\xff\xff" + b"\x0a\x01\x02\x03")["denied"]


def test_values_too_long_to_be_joined_are_denied() -> None:
    judge = judge_of(policy("d", "DENY", {"when": [{"key": "request.headers[x]", "values": ["*bad"]}]}))
    assert not judge.judge(headers=[(b"x", b"a" * 9000)])["denied"]
    assert judge.judge(headers=[(b"x", b"a" * 5000), (b"X", b"a" * 5000)])["denied"]
    assert judge.judge(headers=[(b"x", b"fine"), (b"X", b"bad")])["denied"]


def test_what_a_hop_takes_away_is_not_there() -> None:
    rule = {"when": [{"key": "request.headers[x]", "values": ["*"]}]}
    judge = judge_of(policy("a", "ALLOW", rule))
    assert (
        judge.judge(headers=[(b"x", b"1", True)])["denied"]
        and not judge.judge(headers=[(b"x", b"")])["denied"]
    )


def test_a_thousand_rules_name_the_right_one() -> None:
    rules = [
        {
            "from": [{"source": {"principals": [f"td/ns/default/sa/s{i}"]}}],
            "to": [{"operation": {"methods": ["GET"], "paths": [f"/api/{i}/*"]}}],
        }
        for i in range(1000)
    ]
    judge = judge_of(policy("big", "ALLOW", *rules))
    for i in (0, 1, 31, 32, 500, 999):
        who = f"spiffe://td/ns/default/sa/s{i}".encode()
        found = judge.judge(identity=who, path=f"/api/{i}/x".encode())
        assert (found["denied"], found["rule"]) == (False, f"ns[default]-policy[big]-rule[{i}]")
        assert judge.judge(identity=who, path=f"/api/{i + 1}/x".encode())["denied"]
