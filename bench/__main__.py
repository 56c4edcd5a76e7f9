"""`python -m bench [options]` measures; `python -m bench compare [FILE [BASE]]` prints a stored result."""

from __future__ import annotations

import sys

from bench import compare, run


def main() -> int:
    if sys.argv[1:2] == ["compare"]:
        return compare.main(sys.argv[2:])
    return run.main(sys.argv[1:])


if __name__ == "__main__":
    raise SystemExit(main())
