"""`python -m fastmesh.compile FILE [--node-id X]`: compile an edge's file in a process that ends, so that its
caller imports no YAML.

Writes msgpack to standard output: {"config": Config} with status 0; else, with status 1, {"errors": [text,
...], "warnings": [text, ...], "problems": [{"file", "line", "kind", "namespace", "name", "path", "message",
"hint", "severity", "text"}, ...]}.
"""

from __future__ import annotations

import argparse
import gc
import sys
from typing import Any

import msgpack

from fastmesh.compile.edge import DEFAULT_NODE, compile_edge_file
from fastmesh.model.problems import ConfigError, errors_of, warnings_of


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fastmesh.compile", description="Compile an edge proxy's config file."
    )
    parser.add_argument("file")
    parser.add_argument("--node-id", default=DEFAULT_NODE)
    parser.add_argument("--locality", default="")
    args = parser.parse_args(argv)
    gc.disable()  # this process makes one tree and ends: collecting costs time and frees nothing
    answer: dict[str, Any]
    try:
        answer = {"config": compile_edge_file(args.file, args.node_id, args.locality)}
    except ConfigError as e:
        answer = {
            "errors": [str(p) for p in errors_of(e.problems)],
            "warnings": [str(p) for p in warnings_of(e.problems)],
            "problems": [p.to_dict() for p in e.problems],
        }
    sys.stdout.buffer.write(msgpack.packb(answer, use_bin_type=True))
    sys.stdout.buffer.flush()
    return 1 if "errors" in answer else 0


if __name__ == "__main__":
    sys.exit(main())
