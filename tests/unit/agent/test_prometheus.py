"""agent/prometheus.py, read back by prometheus_client's parser."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from fastmesh.agent.prometheus import Exposition, bound_text, labels_text


def read(out: Exposition) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(out.text())}


@given(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda s: "\r" not in s)
)
def test_any_label_value_comes_back(value: str) -> None:
    # What str.splitlines takes for a line's end is only the parser's trouble; the format knows "\n" alone.
    if (len(value.splitlines()) > 1 and "\n" not in value) or any(
        c in value for c in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
    ):
        return
    out = Exposition()
    out.family("a_total", "counter", "what it is")
    out.sample(3, labels_text({"x": value, "y": "plain"}))
    (sample,) = read(out)["a"].samples
    assert sample.labels == {"x": value, "y": "plain"}
    assert sample.value == 3


def test_help_is_one_line() -> None:
    out = Exposition()
    out.gauge("g", "two\nlines and a \\", 1.5)
    family = read(out)["g"]
    assert family.documentation == "two\nlines and a \\"
    assert family.type == "gauge"


def test_buckets_are_cumulative_and_end_with_inf() -> None:
    out = Exposition()
    out.family("h", "histogram", "h")
    out.histogram((0.5, 1.0, 1800000.0), [1, 0, 2, 4], 12.5, 'a="b"')
    samples = read(out)["h"].samples
    buckets = [(s.labels["le"], s.value) for s in samples if s.name == "h_bucket"]
    assert buckets == [("0.5", 1), ("1", 1), ("1800000", 3), ("+Inf", 7)]
    assert {s.name: s.value for s in samples if s.name != "h_bucket"} == {"h_sum": 12.5, "h_count": 7}


def test_bounds_look_like_envoys() -> None:
    assert [bound_text(b) for b in (0.5, 1.0, 25.0, 3600000.0)] == ["0.5", "1", "25", "3600000"]
