"""`python -m fastmesh`."""

from __future__ import annotations

import sys

from fastmesh.cli import main

if __name__ == "__main__":
    sys.exit(main())
