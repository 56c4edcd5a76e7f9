"""Each golden case of HTTP/1, its input in portions of every size, gives the events of its file."""

from __future__ import annotations

import pytest

from helpers.golden_h1 import CASES, Case, cases_of, events, unescape

FILES = sorted(CASES.glob("*.md"))
ALL = [case for path in FILES for case in cases_of(path)]
# Sizes above this one are sampled; every size of a long input says nothing new.
EVERY_PORTION_UP_TO = 64


@pytest.mark.parametrize("case", ALL, ids=lambda c: f"{c.file}:{c.title}")
def test_golden(case: Case):
    size = len(case.data)
    portions = {*range(1, min(size, EVERY_PORTION_UP_TO) + 1), size // 2 + 1, size - 1 or 1, size}
    for portion in sorted(portions):
        assert events(case.data, case.meta, portion) == case.log, f"in portions of {portion}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_case_of_a_file_is_read(path):
    text = path.read_text()
    assert len(cases_of(path)) == text.count("```http\n") == text.count("```log\n") > 0
    titles = [case.title for case in cases_of(path)]
    assert len(titles) == len(set(titles))


def test_escapes():
    assert unescape("a\\\nb\\r\\x00\\\\\\\nc\n") == b"ab\r\x00\\c\r\n"
