"""Rules for single strings (model): host names, header names, regexes, labels, object names. Used by the
schemas as field rules."""

from __future__ import annotations

import ipaddress
import re
import warnings
from functools import lru_cache
from typing import Final

from fastmesh.model.fields import NOT_YET, clip
from fastmesh.model.problems import Reporter

MAX_HOST: Final = 253
MAX_LABEL: Final = 63
MAX_REGEX: Final = 1024
"""Characters of one pattern; RE2's own memory bound for a program would refuse much longer ones later, in a
worker."""
MAX_REPEAT: Final = 1000
"""RE2's bound for {n,m}."""

_LABEL = re.compile(r"[a-zA-Z0-9]([-a-zA-Z0-9_]{0,61}[a-zA-Z0-9])?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_KEY_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?")


def is_ip(text: str) -> bool:
    """An IP literal (no zone, no brackets)."""
    if "%" in text:
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_dns_name(text: str) -> bool:
    """Labels of letters, digits, - and _; a last label of digits only would be half an IP address."""
    if not text or len(text) > MAX_HOST:
        return False
    labels = text.split(".")
    return all(_LABEL.fullmatch(x) for x in labels) and not (len(labels) > 1 and labels[-1].isdigit())


def host_name(value: str, r: Reporter) -> None:
    """An exact host: DNS name or IP."""
    if "*" in value:
        r.add(f"{clip(value)}: a wildcard is not possible here")
    else:
        _host(value, r)


def wildcard_host(value: str, r: Reporter) -> None:
    """A host, "*.suffix" or "*"."""
    if value in ("*", ""):
        if not value:
            r.add("must not be empty")
        return
    rest = value[2:] if value.startswith("*.") else value
    if value.startswith("*-"):
        r.add(f"{clip(value)}: a wildcard within a label is {NOT_YET}", "write *.suffix")
    elif "*" in rest:
        r.add(f"{clip(value)}: the wildcard must be the whole first label", "write * or *.suffix")
    elif value.startswith("*.") and not is_dns_name(rest):
        r.add(f"{clip(value)} is not a host name")
    elif not value.startswith("*."):
        _host(value, r)


def _host(value: str, r: Reporter) -> None:
    if is_dns_name(value) or is_ip(value):
        return
    hint = ""
    if "://" in value or "/" in value:
        hint = "only the name: no scheme, no path"
    elif ":" in value:
        hint = "only the name: no port"
    elif value.endswith("."):
        hint = "no dot at the end"
    r.add(f"{clip(value)} is not a host name or IP address", hint)


def service_entry_host(value: str, r: Reporter) -> None:
    if value == "*":
        r.add('"*" cannot be the host of a ServiceEntry', "name the host, or write *.suffix")
    else:
        wildcard_host(value, r)


def gateway_host(value: str, r: Reporter) -> None:
    """A server's host, optionally "namespace/host" with "." (this namespace) or "*" (any)."""
    namespace, slash, host = value.partition("/")
    if slash and namespace not in (".", "*") and not _NAMESPACE.fullmatch(namespace):
        r.add(f"{clip(namespace)} is not a namespace", 'write "namespace/host", "./host" or "*/host"')
    wildcard_host(host if slash else namespace, r)


def gateway_ref(value: str, r: Reporter) -> None:
    """ "mesh", "name" or "namespace/name"."""
    namespace, slash, name = value.rpartition("/")
    if (slash and not _NAMESPACE.fullmatch(namespace)) or not _NAME.fullmatch(name):
        r.add(f"{clip(value)} is not a gateway's name", 'write "name", "namespace/name" or "mesh"')


def object_name(value: str, r: Reporter) -> None:
    """RFC 1123 subdomain."""
    if len(value) > MAX_HOST or not _NAME.fullmatch(value):
        r.add(f"{clip(value)} is not a valid name", "lower-case letters, digits, - and . (RFC 1123)")


def namespace_name(value: str, r: Reporter) -> None:
    """RFC 1123 label."""
    if len(value) > MAX_LABEL or not _NAMESPACE.fullmatch(value):
        r.add(f"{clip(value)} is not a valid namespace", "lower-case letters, digits and - (RFC 1123)")


def subset_name(value: str, r: Reporter) -> None:
    if len(value) > MAX_LABEL or not _LABEL.fullmatch(value):
        r.add(f"{clip(value)} is not a valid subset name", "letters, digits and -")


def port_name(value: str, r: Reporter) -> None:
    if len(value) > 256 or not _PORT_NAME.fullmatch(value):
        r.add(f"{clip(value)} is not a valid port name", "letters, digits and -")


def label_key(value: str, r: Reporter) -> None:
    prefix, slash, name = value.rpartition("/")
    if len(name) > MAX_LABEL or not _KEY_NAME.fullmatch(name) or (slash and not _NAME.fullmatch(prefix)):
        r.add(f"{clip(value)} is not a valid label key")


def label_value(value: str, r: Reporter) -> None:
    if value and (len(value) > MAX_LABEL or not _KEY_NAME.fullmatch(value)):
        r.add(f"{clip(value)} is not a valid label value")


def is_token(value: str) -> bool:
    return _TOKEN.fullmatch(value) is not None


def header_name(value: str, r: Reporter) -> None:
    if not is_token(value) or len(value) > 256:
        r.add(f"{clip(value)} is not a header name")


FRAMING_HEADERS: Final = frozenset(
    {
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that say where a message ends or belong to one hop: a config that set them would break the
framing."""


def operated_header_name(value: str, r: Reporter) -> None:
    """A header that a rule sets, adds or removes."""
    if value.startswith(":"):
        if value != ":authority":
            r.add(f"the pseudo header {clip(value)} cannot be changed by header rules", "use rewrite")
        return
    header_name(value, r)
    if value.lower() in FRAMING_HEADERS:
        r.add(f"{value.lower()} belongs to one connection and cannot be changed by a rule")


_SUBSTITUTION = re.compile(r"%[A-Z][A-Z0-9_]*(?:\([^)]*\))?(?::\d+)?%")


def header_value(value: str, r: Reporter) -> None:
    if any((c < " " and c != "\t") or c == "\x7f" for c in value):
        r.add("a header value must not contain control characters")
    elif value != value.strip(" \t"):
        r.add("a header value must not begin or end with spaces")
    elif m := _SUBSTITUTION.search(value.replace("%%", "")):
        r.add(f"substitution of {clip(m.group())} is {NOT_YET}", "%% is a literal %")


def rewritten_path(value: str, r: Reporter) -> None:
    """What replaces a path or a prefix of one."""
    url_path(value, r)
    if not value.startswith("/"):
        r.add("must begin with /")
    elif "?" in value or "#" in value:
        r.add("must be a path: without ? and #")


def url_path(value: str, r: Reporter) -> None:
    """A path in a rewrite or redirect."""
    if any(c <= " " or c == "\x7f" for c in value):
        r.add("a path must not contain spaces or control characters", "percent-encode them")
    elif not value.isascii():
        r.add("a path must be ASCII", "percent-encode other characters")


def authority(value: str, r: Reporter) -> None:
    """host or host:port, as in a Host header."""
    host, colon, port = value.rpartition(":")
    if value.startswith("["):
        inner, bracket, tail = value[1:].partition("]")
        good = bool(bracket) and is_ip(inner) and (not tail or (_is_port(tail[1:]) and tail[0] == ":"))
    elif colon:
        good = _is_port(port) and (is_dns_name(host) or is_ip(host))
    else:
        good = is_dns_name(value) or is_ip(value)
    if not good:
        r.add(f"{clip(value)} is not a host or host:port")


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= 65535


def locale_free_path(value: str, r: Reporter) -> None:
    """A file name."""
    if not value:
        r.add("must not be empty")
    elif any(c < " " for c in value):
        r.add("a file name must not contain control characters")


_RE2_ONLY = re.compile(r"\\[pPQEzC]|\[\[:|\(\?[a-zA-Z]*U|.\(\?[imsU-]+\)", re.DOTALL)
_LOOKAROUND = re.compile(r"(?<!\\)(?:\\\\)*\(\?(?:<?[=!]|>|\(|#)")
_BACKREF = re.compile(r"(?<!\\)(?:\\\\)*(?:\\[1-9]|\(\?P=)")
_POSSESSIVE = re.compile(r"(?<!\\)(?:\\\\)*[*+?}]\+")
_REPEAT = re.compile(r"\{(\d+)(?:,(\d*))?\}")


@lru_cache(maxsize=4096)
def regex_fault(pattern: str) -> tuple[str, str]:
    """("", "") for a pattern that RE2 takes as far as can be told without RE2, else (fault, hint). The data
    plane's RE2 has the last word."""
    if len(pattern) > MAX_REGEX:
        return f"the regex is longer than {MAX_REGEX} characters", ""
    bare = re.sub(r"\[\^?\]?[^\]]*\]", "[]", pattern)
    if _LOOKAROUND.search(bare):
        return (
            "the regex uses look-around or another construct that RE2 has not",
            "RE2 syntax: no (?=, (?!, (?<, (?>",
        )
    if _BACKREF.search(bare):
        return "the regex uses a back-reference, which RE2 has not", ""
    if _POSSESSIVE.search(bare):
        return "the regex uses a possessive quantifier, which RE2 has not", ""
    if any(int(n or 0) > MAX_REPEAT for m in _REPEAT.finditer(bare) for n in m.groups() if len(n or "") < 9):
        return f"the regex repeats more than {MAX_REPEAT} times", ""
    if _RE2_ONLY.search(pattern):
        return "", ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern)
    except (re.error, RecursionError, OverflowError, MemoryError) as e:
        return f"the regex is malformed: {e}", ""
    return "", ""


def regex(value: str, r: Reporter) -> None:
    fault, hint = regex_fault(value)
    if fault:
        r.add(fault, hint)


def value_regex(value: str, r: Reporter) -> None:
    """Of a header or parameter: "*" is Istio's way to ask for presence."""
    if value != "*":
        regex(value, r)
