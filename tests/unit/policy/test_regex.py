"""base/regex: whole-value matches in linear time, and patterns that are refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shim.policy_shim import full_match

from fastmesh._core.shm.pack import regex_check

ATOMS = st.sampled_from(
    ["a", "b", ".", "[ab]", "[^a]", "(a|b)", "(?:ab)", "a?", "b*", "a+", "(ab){1,2}", "|", "\\.", "^", "$"]
)


@given(st.lists(ATOMS, max_size=6).map("".join), st.text("ab.", max_size=8))
def test_as_python_does(pattern, value):
    assert full_match(pattern.encode(), value.encode()) is (re.fullmatch(pattern, value) is not None)


@pytest.mark.parametrize(
    "pattern", ["(", "[a", "a{2,1}", "(?=a)", "(?<=a)", "\\1", "(a)\\1", "*", "a**", "\xff"]
)
def test_what_re2_cannot_do_is_refused_with_a_reason(pattern):
    raw = pattern.encode("latin-1")
    why = regex_check(raw)
    assert why and full_match(raw, b"") == why


def test_a_pattern_that_needs_too_much_memory_is_refused():
    assert regex_check(b"((a{100}){100}){100}") and regex_check(b"a" * 5000)
    assert regex_check(b"[a-z]{1,63}(\\.[a-z]{1,63}){0,3}") is None


def test_no_pattern_takes_exponential_time():
    value = b"a" * 50_000 + b"!"  # a backtracking engine would not come back
    assert full_match(b"(a+)+b", value) is False
    assert full_match(b"(a|aa)+$", value) is False


def test_bytes_that_are_no_text():
    assert full_match(b"a.*", b"a\x00b") is True
    assert full_match(b".*", b"\xff\xfe") is False  # patterns are UTF-8, as Envoy's
    assert full_match("é+".encode(), "éé".encode()) is True
