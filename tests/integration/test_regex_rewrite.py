"""uriRegexRewrite through one worker; RE2's own idea of it is what unit tests compare with."""

from __future__ import annotations

import pytest

from fastmesh._core.shm.segment import SnapshotError
from helpers import wait_for
from helpers.worker import Upstream, serving, simple_config

# pattern, rewrite, path, what is asked of the upstream
REWRITES = [
    (r"^/service/([^/]+)(/.*)$", r"\2/instance/\1", "/service/foo/v1/api", "/v1/api/instance/foo"),
    ("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"),
    (r"^(.*?)one(.*)$", r"\1two\2", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/one/zzz"),
    (r"(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
    ("nothing", "x", "/as/it/is", "/as/it/is"),
    ("/a/", "/", "/a/b?q=/a/", "/b?q=/a/"),
    ("x*", "-", "/ab", None),  # "-/-a-b-" is no path
    (r"\d+", r"<\0>", "/1/22", "/<1>/<22>"),
    ("^/a$", "/b", "/a", "/b"),
    (".", "", "/abc", None),
    ("^", "/v1", "/a", "/v1/a"),
]


@pytest.mark.parametrize(("pattern", "rewrite", "path", "sent"), REWRITES, ids=[r[0] for r in REWRITES])
def test_a_path(pattern: str, rewrite: str, path: str, sent: str | None) -> None:
    up = Upstream()
    config = simple_config(up.port, rewrite={"regex": pattern, "path": rewrite})
    with serving(up, config=config, log=True) as proxy:
        status = proxy.get(path)[0]
        if sent is not None:
            assert status == 200
            assert up.heads[0].split(b" ")[1].decode() == sent
            return
        assert status == 500 and not up.heads and proxy.counter("rq_rewrite") == 1
        record = wait_for(lambda: proxy.segment.log_records(10))[0]
        assert (record["details"], record["path"]) == ("path_rewrite_failed", path)


def test_what_grows_beyond_any_target_is_refused() -> None:
    up = Upstream()
    config = simple_config(up.port, rewrite={"regex": "a", "path": "b" * 1000})
    with serving(up, config=config) as proxy:
        assert proxy.get("/" + "a" * 10)[0] == 200
        assert proxy.get("/" + "a" * 17)[0] == 500  # above 16 KiB
        assert proxy.get("/aa")[0] == 200


def test_a_path_with_too_many_matches_is_refused() -> None:
    up = Upstream()
    config = simple_config(up.port, rewrite={"regex": "a", "path": "b"})
    with serving(up, config=config) as proxy:
        assert proxy.get("/" + "a" * 128)[0] == 200
        assert proxy.get("/" + "a" * 129)[0] == 500
        assert up.heads[0].split(b" ")[1] == b"/" + b"b" * 128


def test_rewrites_that_the_pattern_has_no_group_for() -> None:
    up = Upstream()
    for pattern, rewrite in (("(a)", r"\2"), ("a", r"\1"), ("a", "b\\"), ("a(", "b")):
        with (
            pytest.raises(SnapshotError, match="rewrite"),
            serving(config=simple_config(up.port, rewrite={"regex": pattern, "path": rewrite})),
        ):
            pass
    up.close()
