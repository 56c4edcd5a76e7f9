"""The vocabulary that a schema is written in (model): types of fields, how a value is checked, what it is
turned into.

A checker walks plain data (dict, list, str, ...), reports every problem with its path, and returns the
normalised form: the same names, durations as whole milliseconds, base64 decoded, enums by their canonical
name, only fields that were given. Knows no resource.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from fastmesh.model.problems import Reporter

NOT_YET: Final = "not implemented yet"
INVALID: Final = object()
"""What a check returns when it has reported an error: the field is left out of the normalised form."""

MAX_DURATION_MS: Final = 2**32 - 1
"""A duration fits 32 bits of milliseconds in the packed config: 49 days."""
MAX_TEXT: Final = 64 * 1024
"""No single string of a config is longer: an error, not a megabyte that every worker carries."""

Check = Callable[[Any, Reporter], None]


def name_of(value: object) -> str:
    """A value's type in the words of the format."""
    names = {
        dict: "a mapping",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "a whole number",
        float: "a number",
    }
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def did_you_mean(word: str, known: Mapping[str, object] | list[str]) -> str:
    """`did you mean "weight"?` or nothing; snake_case finds its camelCase."""
    names = list(known)
    folded = {n.replace("_", "").replace("-", "").lower(): n for n in names}
    same = folded.get(word.replace("_", "").replace("-", "").lower())
    close = [same] if same else difflib.get_close_matches(word, names, 1, 0.6)
    return f'did you mean "{close[0]}"?' if close else ""


class Type:
    """A field's type: `check` reports what is wrong and returns the normalised value or INVALID."""

    __slots__ = ()

    def check(self, value: Any, r: Reporter) -> Any:
        raise NotImplementedError


class Str(Type):
    __slots__ = ("empty", "rule")

    def __init__(self, rule: Check | None = None, *, empty: bool = True) -> None:
        self.rule = rule
        self.empty = empty

    def check(self, value: Any, r: Reporter) -> Any:
        if not isinstance(value, str):
            quote = isinstance(value, (bool, int, float))
            r.add(f"must be a string, not {name_of(value)}", "put it in quotes" if quote else "")
            return INVALID
        if not value and not self.empty:
            r.add("must not be empty")
            return INVALID
        if len(value) > MAX_TEXT:
            r.add(f"is longer than {MAX_TEXT} characters")
            return INVALID
        if "\x00" in value:
            r.add("must not contain a NUL character")
            return INVALID
        if self.rule is not None:
            before = len(r.problems)
            self.rule(value, r)
            if any(p.severity == "error" for p in r.problems[before:]):
                return INVALID
        return value


class Bool(Type):
    __slots__ = ()

    def check(self, value: Any, r: Reporter) -> Any:
        if isinstance(value, bool):
            return value
        r.add(f"must be true or false, not {name_of(value)}")
        return INVALID


class Int(Type):
    __slots__ = ("high", "low")

    def __init__(self, low: int = 0, high: int = 2**31 - 1) -> None:
        self.low = low
        self.high = high

    def check(self, value: Any, r: Reporter) -> Any:
        if isinstance(value, bool) or not isinstance(value, int):
            hint = "remove the quotes" if isinstance(value, str) and value.isdigit() else ""
            r.add(f"must be a whole number, not {name_of(value)}", hint)
            return INVALID
        if not self.low <= value <= self.high:
            r.add(f"must be {self.low} to {self.high}, not {clip(value)}")
            return INVALID
        return value


class Number(Type):
    """A number that may have a fraction."""

    __slots__ = ("high", "low")

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.high = high

    def check(self, value: Any, r: Reporter) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            r.add(f"must be a number, not {name_of(value)}")
            return INVALID
        if not self.low <= value <= self.high:  # not a number is not in it either
            r.add(f"must be {self.low:g} to {self.high:g}, not {clip(value)}")
            return INVALID
        return value


class Enum(Type):
    """Names; the value says what each becomes. A name in `later` is Istio's, and refused with the reason."""

    __slots__ = ("later", "values", "warnings")

    def __init__(
        self,
        values: Mapping[str, str] | list[str],
        later: Mapping[str, str] | None = None,
        warnings: Mapping[str, str] | None = None,
    ) -> None:
        self.values = dict(values) if isinstance(values, Mapping) else {v: v for v in values}
        self.later = dict(later or {})
        self.warnings = dict(warnings or {})

    def check(self, value: Any, r: Reporter) -> Any:
        if not isinstance(value, str):
            r.add(f"must be one of {', '.join(self.values)}, not {name_of(value)}")
            return INVALID
        if value in self.values:
            if value in self.warnings:
                r.warn(self.warnings[value])
            return self.values[value]
        if value in self.later:
            r.add(f"{value}: {NOT_YET}", self.later[value])
            return INVALID
        known = [*self.values, *self.later]
        r.add(f"unknown value {clip(value)}; known: {', '.join(known)}", did_you_mean(value.upper(), known))
        return INVALID


_DURATION = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}


def parse_duration_ns(text: str) -> int | None:
    """Go's duration ("1.5s", "1h30m", "100ms", "0s") in nanoseconds, or None."""
    total = 0
    at = 0
    for m in _DURATION.finditer(text):
        if m.start() != at or len(m.group()) > 32:
            return None
        at = m.end()
        number = m.group().rstrip("nuµμmsh")
        whole, _, part = number.partition(".")
        unit = _UNITS[m.group()[len(number) :]]
        total += int(whole or "0") * unit + (int(part) * unit // 10 ** len(part) if part else 0)
    return total if at == len(text) and at else None


class Duration(Type):
    """ "5s", "1.5s", "100ms", "1h30m"; whole milliseconds; at least 1 ms, or also 0 where that means
    "none"."""

    __slots__ = ("high", "zero")

    def __init__(self, *, zero: bool = False, high: int = MAX_DURATION_MS) -> None:
        self.zero = zero
        self.high = high

    def check(self, value: Any, r: Reporter) -> Any:
        if not isinstance(value, str):
            r.add(f"must be a duration such as 5s or 100ms, not {name_of(value)}")
            return INVALID
        ns = parse_duration_ns(value)
        if ns is None:
            hint = (
                'a unit is missing: "5s", "100ms"'
                if re.fullmatch(r"[\d.]{1,20}", value)
                else '"5s", "1.5s", "100ms", "1h30m"'
            )
            r.add(f"{clip(value)} is not a duration", hint)
            return INVALID
        if ns == 0 and self.zero:
            return 0
        if ns < 1_000_000:
            r.add("must be at least 1ms")
            return INVALID
        if ns % 1_000_000:
            r.add("must be whole milliseconds")
            return INVALID
        if ns // 1_000_000 > self.high:
            most = self.high // 1000
            r.add(f"must be at most {most}s" if most < 3600 else f"must be at most {most // 3600}h")
            return INVALID
        return ns // 1_000_000


class Bytes(Type):
    """Base64 text, as in JSON of protobuf."""

    __slots__ = ()

    def check(self, value: Any, r: Reporter) -> Any:
        if not isinstance(value, str):
            r.add(f"must be base64 text, not {name_of(value)}")
            return INVALID
        if len(value) > MAX_TEXT:
            r.add(f"is longer than {MAX_TEXT} characters")
            return INVALID
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            r.add("is not valid base64")
            return INVALID


class List(Type):
    __slots__ = ("high", "item", "low")

    def __init__(self, item: Type, low: int = 0, high: int = 1_000_000) -> None:
        self.item = item
        self.low = low
        self.high = high

    def check(self, value: Any, r: Reporter) -> Any:
        if not isinstance(value, list):
            r.add(
                f"must be a list, not {name_of(value)}",
                'begin each item with "- "' if value is not None else "",
            )
            return INVALID
        if len(value) < self.low:
            r.add("must not be empty" if self.low == 1 else f"needs at least {self.low} items")
            return INVALID
        if len(value) > self.high:
            r.add(f"has more than {self.high} items")
            return INVALID
        out = []
        r.path.append(0)
        for i, item in enumerate(value):
            r.path[-1] = i
            # an item that is wrong keeps its place, so that later rules name the right index
            out.append(self.item.check(item, r))
        r.path.pop()
        return out


class Map(Type):
    """Free keys, one type of value. `key` reports what is wrong with a key."""

    __slots__ = ("high", "key", "value")

    def __init__(self, value: Type, key: Check | None = None, high: int = 4096) -> None:
        self.value = value
        self.key = key
        self.high = high

    def check(self, value: Any, r: Reporter) -> Any:
        if not isinstance(value, dict):
            r.add(f"must be a mapping, not {name_of(value)}")
            return INVALID
        if len(value) > self.high:
            r.add(f"has more than {self.high} entries")
            return INVALID
        out = {}
        for k, v in value.items():
            if not isinstance(k, str):
                r.add(f"key {clip(k)} must be a string, not {name_of(k)}", "put it in quotes")
                continue
            r.path.append(k)
            before = len(r.problems)
            if self.key is not None:
                self.key(k, r)
            checked = self.value.check(v, r)
            if checked is not INVALID and not any(p.severity == "error" for p in r.problems[before:]):
                out[k] = checked
            r.path.pop()
        return out


class Field:
    """A field of a message: its type, or why it is refused."""

    __slots__ = ("hint", "later", "required", "type")

    def __init__(self, type: Type | None, *, required: bool = False, later: str = "", hint: str = "") -> None:
        self.type = type
        self.required = required
        self.later = later
        self.hint = hint


def req(type: Type) -> Field:
    return Field(type, required=True)


def later(hint: str = "") -> Field:
    """A field of Istio's that is not implemented yet."""
    return Field(None, later=NOT_YET, hint=hint)


def gone(reason: str, hint: str = "") -> Field:
    """A field that Istio itself has removed or deprecated in favour of another."""
    return Field(None, later=reason, hint=hint)


class Message(Type):
    """A mapping with known fields. `one_of`: at most one of each group; `rule`: what its fields must say
    together."""

    __slots__ = ("fields", "name", "one_of", "required", "rule")

    def __init__(
        self,
        name: str,
        fields: Mapping[str, Type | Field],
        *,
        one_of: tuple[tuple[str, ...], ...] = (),
        rule: Callable[[dict[str, Any], Reporter], None] | None = None,
    ) -> None:
        self.name = name
        self.fields = {k: v if isinstance(v, Field) else Field(v) for k, v in fields.items()}
        self.one_of = one_of
        self.rule = rule
        self.required = tuple(k for k, v in self.fields.items() if v.required)

    def check(self, value: Any, r: Reporter) -> Any:
        if not isinstance(value, dict):
            r.add(f"must be a mapping ({self.name}), not {name_of(value)}")
            return INVALID
        before = len(r.problems)
        out: dict[str, Any] = {}
        for k, v in value.items():
            field = self.fields.get(k) if isinstance(k, str) else None
            if field is None:
                known = {n: f for n, f in self.fields.items() if not f.later}
                label = k if isinstance(k, str) else str(k)
                r.add(
                    f"unknown field of {self.name}",
                    did_you_mean(label, known) or did_you_mean(label, self.fields),
                    at=(label,),
                )
                continue
            r.path.append(k)
            if field.type is None:
                r.add(field.later, field.hint)
            elif v is None:
                r.add("has no value", "remove the field, or write {} or [] where empty is meant")
            else:
                checked = field.type.check(v, r)
                if checked is not INVALID:
                    out[k] = checked
            r.path.pop()
        for k in self.required:
            if k not in value:
                r.add("is required", at=(k,))
        for group in self.one_of:
            given = [k for k in group if k in value]
            if len(given) > 1:
                r.add(f"only one of {', '.join(group)} may be given, not {' and '.join(given)}")
        # rules read fields that are known to be well formed
        if self.rule is not None and not any(p.severity == "error" for p in r.problems[before:]):
            self.rule(out, r)
        return out


def clip(value: object, limit: int = 80) -> str:
    """A value in a message: quoted, and short. (A huge number is not even turned into digits: that is
    quadratic.)"""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return "a number of more than 256 bits"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
