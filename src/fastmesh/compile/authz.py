"""AuthorizationPolicies -> the tables that a listener judges requests by (compile): SnapAuthz.

Used in an agent: no heavy import. What cannot be packed is refused as a whole config: a policy that is left
out would let pass what it denies.
"""

from __future__ import annotations

from fastmesh._core.shm.pack import Packer
from fastmesh.compile.packing import refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from fastmesh.model import ir

    Key = tuple[int, bytes]
    Asked = tuple[int, str, bool, tuple[Key, ...]]  # AT_*, header name, negate, keys of which one must fit

MAX_TERMS = 16384  # as SNAP_MAX_TERMS
# AT_*, in the order of shm/snapshot.pxd.
(PRINCIPAL, NAMESPACE, ACCOUNT, SOURCE_IP, REMOTE_IP, DEST_IP, DEST_PORT, HOST, METHOD, PATH, HEADER) = range(
    11
)
EXACT, PREFIX, SUFFIX, NET, TEMPLATE, GLOB = range(6)  # AO_*
AUDIT, DENY, ALLOW, DRY_DENY, DRY_ALLOW = range(5)  # AG_*
HAS_ALLOW, HAS_DRY_ALLOW, TELL, ASKS_PATH, ASKS_DEST_IP = 1, 2, 4, 8, 16  # AZ_*
HEADERS = "request.headers["
FIELDS = {
    "principals": PRINCIPAL,
    "namespaces": NAMESPACE,
    "serviceAccounts": ACCOUNT,
    "ipBlocks": SOURCE_IP,
    "remoteIpBlocks": REMOTE_IP,
    "hosts": HOST,
    "methods": METHOD,
    "paths": PATH,
    "ports": DEST_PORT,
}
NEGATED = {"not" + name[0].upper() + name[1:]: on for name, on in FIELDS.items()}
ATTRIBUTES = {
    "source.ip": SOURCE_IP,
    "remote.ip": REMOTE_IP,
    "source.namespace": NAMESPACE,
    "source.principal": PRINCIPAL,
    "destination.ip": DEST_IP,
    "destination.port": DEST_PORT,
}


def decoded(text: str) -> bytes:
    """A path as requests' are compared: %XX for what it stands for (proto/pathnorm)."""
    first, *rest = text.encode().split(b"%")
    out = [first]
    for part in rest:
        try:
            out.append(bytes((int(part[:2], 16),)) + part[2:])
        except ValueError:
            out.append(b"%" + part)
    return b"".join(out)


def net_key(text: str, path: str) -> Key:
    from fastmesh.compile.packing import address_bytes

    address, slash, bits = text.partition("/")
    family, raw = address_bytes(address, path)
    if family == 6 and raw[:12] == b"\0" * 10 + b"\xff\xff":
        family, raw = 4, raw[12:]
        bits = str(int(bits) - 96) if slash and bits.isdecimal() else bits
    most = 8 * len(raw)
    n = int(bits) if slash and bits.isdecimal() and bits.isascii() else (-1 if slash else most)
    if not 0 <= n <= most:
        raise refuse(path, f"{text!r} is no IP address or network")
    number = int.from_bytes(raw, "big") >> (most - n) << (most - n)
    return NET, bytes((family, n)) + number.to_bytes(len(raw), "big")


def text_key(on: int, text: str) -> Key:
    """Istio's order: presence, suffix, prefix, exact."""
    if on == PATH and ("{*}" in text or "{**}" in text):
        return TEMPLATE, decoded(text)
    if on == HOST:
        text = text.lower()
    code = decoded if on == PATH else str.encode
    if text == "*":
        return PREFIX, b""
    if on == NAMESPACE and "*" in (text[1:] if text[0] == "*" else text[:-1]):
        return GLOB, text.encode()
    if text[0] == "*":
        return SUFFIX, code(text[1:])
    if text[-1] == "*":
        return PREFIX, code(text[:-1])
    return EXACT, code(text)


def key(on: int, text: str, namespace: str, path: str) -> Key:
    if not isinstance(text, str) or not text:
        raise refuse(path, "must be text, and not empty")
    if on in (SOURCE_IP, REMOTE_IP, DEST_IP):
        return net_key(text, path)
    if on == DEST_PORT:
        if not text.isdecimal() or not text.isascii() or int(text) > 65535:
            raise refuse(path, f"{text!r} is no port")
        return EXACT, b"%d" % int(text)
    if on == ACCOUNT:
        ns, slash, account = text.rpartition("/")
        return EXACT, f"{ns if slash else namespace}/sa/{account}".encode()
    return text_key(on, text)


def asked(on: int, name: str, negate: bool, values: Iterable[str], namespace: str, path: str) -> Asked:
    keys = [key(on, value, namespace, f"{path}[{i}]") for i, value in enumerate(values)]
    return on, name, negate, tuple(dict.fromkeys(keys))


def fields_of(part: dict[str, Any], namespace: str, path: str) -> list[Asked]:
    """What a source or an operation asks for: all of it."""
    made = []
    for name, values in part.items():
        negate = name in NEGATED
        on = NEGATED.get(name, FIELDS.get(name))
        if on is None:
            raise refuse(f"{path}.{name}", "cannot be judged by this release")
        if values:
            made.append(asked(on, "", negate, values, namespace, f"{path}.{name}"))
    return made


def whens_of(rule: dict[str, Any], namespace: str, path: str) -> list[Asked]:
    made = []
    for i, when in enumerate(rule.get("when", ())):
        at, what, name = f"{path}.when[{i}]", when["key"], ""
        on = ATTRIBUTES.get(what)
        if on is None and what.startswith(HEADERS) and what.endswith("]"):
            on, name = HEADER, what[len(HEADERS) : -1].lower()
            if name in ("host", ":authority"):
                on, name = HOST, ""  # one name for what HTTP/1 and HTTP/2 call differently
        if on is None or (on == HEADER and (not name or name[0] == ":")):
            raise refuse(f"{at}.key", f"{what!r} cannot be judged by this release")
        given = [(negate, when[f]) for negate, f in ((False, "values"), (True, "notValues")) if when.get(f)]
        if not given:
            raise refuse(at, "says nothing")
        made += [asked(on, name, negate, values, namespace, at) for negate, values in given]
    return made


def merged(parts: list[list[Asked]]) -> list[list[Asked]]:
    """Alternatives that ask for one list of one attribute and nothing else are one alternative."""
    out: list[list[Asked]] = []
    single: dict[tuple[int, str], int] = {}
    for part in parts:
        if len(part) == 1 and not part[0][2]:
            on, name, _, keys = part[0]
            at = single.setdefault((on, name), len(out))
            if at < len(out):
                both = tuple(dict.fromkeys((*out[at][0][3], *keys)))
                out[at] = [(on, name, False, both)]
                continue
        out.append(part)
    return out


def terms_of(rule: dict[str, Any], namespace: str, path: str) -> list[list[Asked]]:
    """The ways of a rule to match: each source with each operation."""
    whens = whens_of(rule, namespace, path)
    sources = merged(
        [
            fields_of(each["source"], namespace, f"{path}.from[{i}].source")
            for i, each in enumerate(rule.get("from", ()))
        ]
        or [[]]
    )
    operations = merged(
        [
            fields_of(each["operation"], namespace, f"{path}.to[{i}].operation")
            for i, each in enumerate(rule.get("to", ()))
        ]
        or [[]]
    )
    if len(sources) * len(operations) > MAX_TERMS:
        raise refuse(path, f"more than {MAX_TERMS} pairs of a source and an operation")
    return [[*source, *operation, *whens] for source in sources for operation in operations]


def group_of(policy: ir.Policy, path: str) -> int:
    groups = {"AUDIT": (AUDIT, AUDIT), "DENY": (DENY, DRY_DENY), "ALLOW": (ALLOW, DRY_ALLOW)}
    found = groups.get(policy["action"])
    if found is None:
        raise refuse(f"{path}.action", f"{policy['action']!r} is none of {', '.join(groups)}")
    return found[bool(policy.get("dry_run"))]


def only_http(term: list[Asked]) -> bool:
    return any(on >= HOST for on, _, _, _ in term)


class _Dims:
    """Attributes that terms ask for. A term that asks twice for one has a second dimension of it."""

    def __init__(self) -> None:
        self.dims: dict[tuple[int, str, bool, int], dict[Key, list[int]]] = {}
        self.asking: dict[tuple[int, str, bool, int], set[int]] = {}

    def add(self, term: int, wants: list[Asked]) -> None:
        for on, name, negate, keys in wants:
            turn = 0
            # what is excluded twice is one list: nothing of it may fit
            while not negate and term in self.asking.get((on, name, negate, turn), ()):
                turn += 1
            at = (on, name, negate, turn)
            self.asking.setdefault(at, set()).add(term)
            dim = self.dims.setdefault(at, {})
            for each in keys:
                terms = dim.setdefault(each, [])
                if not terms or terms[-1] != term:
                    terms.append(term)


def pack_authz(packer: Packer, authz: ir.Authz, path: str) -> int:
    """The index of the policies of a listener."""
    groups: list[list[tuple[str, list[Asked], bool]]] = [[] for _ in range(5)]
    flags = 0
    for i, policy in enumerate(authz["policies"]):
        at = f"{path}.policies[{i}]"
        group = group_of(policy, at)
        flags |= {ALLOW: HAS_ALLOW, DRY_ALLOW: HAS_DRY_ALLOW}.get(group, 0) | (
            TELL if policy.get("tell") else 0
        )
        for k, rule in enumerate(policy["rules"]):
            terms = terms_of(rule, policy["namespace"], f"{at}.rules[{k}]")
            http = any(map(only_http, terms))
            name = f"ns[{policy['namespace']}]-policy[{policy['name']}]-rule[{k}]"
            groups[group] += [(name, term, http) for term in terms]
    names: list[str] = []
    upto, https, dims = [], [], _Dims()
    for made in groups:
        for name, wants, http in made:
            dims.add(len(names), wants)
            if http:
                https.append(len(names))
            if any(on == PATH for on, _, _, _ in wants):
                flags |= ASKS_PATH
            if any(on == DEST_IP for on, _, _, _ in wants):
                flags |= ASKS_DEST_IP
            names.append(name)
        names += [""] * (-len(names) % 32)
        upto.append(len(names) // 32)
    if len(names) > MAX_TERMS:
        raise refuse(path, f"the rules have more than {MAX_TERMS} pairs of a source and an operation")
    indexes = []
    for at_dim in sorted(dims.dims):
        on, header, negate, _ = at_dim
        asking = dims.asking[at_dim]
        indexes.append(
            packer.authz_dim(
                on=on,
                negate=negate,
                name=header,
                keys=dims.dims[at_dim],
                base=[t for t, name in enumerate(names) if name and t not in asking],
                words=upto[-1],
            )
        )
    return packer.authz(
        dims=(indexes[0], len(indexes)) if indexes else (),
        names=names,
        http=https,
        flags=flags,
        port=authz.get("port", 0),
        upto=upto,
    )
