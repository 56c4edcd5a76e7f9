"""What the demo prints: steps, facts, checks. Colour and a progress line on a terminal, plain text elsewhere.

Owns the count of failed checks. Knows nothing of the mesh.
"""

from __future__ import annotations

import os
import re
import sys

# Of a command that is shown.
WIDTH = 100

BOLD, DIM, GREEN, RED, CYAN = "1", "2", "32", "31", "36"


class Screen:
    """Writes to stdout; `failed` lists the checks that did not hold."""

    def __init__(self, steps: int) -> None:
        self.terminal = sys.stdout.isatty()
        self.colour = self.terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self.failed: list[str] = []
        self.passed = 0
        self._steps = steps
        self._step = 0
        self._progress = False

    def step(self, title: str) -> None:
        self._step += 1
        self.line(f"\n{self.paint(f'[{self._step}/{self._steps}] {title}', BOLD)}")

    def info(self, text: str = "") -> None:
        for line in text.splitlines():
            self.line(f"      {line}")

    def command(self, text: str) -> None:
        """A command that is being run, as one would type it; broken between options when it is long."""
        words = re.split(r" (?=--)", text)
        lines = [words[0]]
        for word in words[1:]:
            if len(lines[-1]) + len(word) > WIDTH:
                lines[-1] += " \\"
                lines.append("   ")
            lines[-1] += f" {word}"
        first, *rest = (self.paint(line, CYAN) for line in lines)
        self.line("\n      ".join([f"    {self.paint('$', DIM)} {first}", *rest]))

    def check(self, holds: object, text: str, reason: str = "") -> bool:
        """One claim and whether it held; `reason` says what was seen instead."""
        if holds:
            self.passed += 1
            self.line(f"  {self.paint('ok', GREEN)}  {text}")
            return True
        self.failed.append(text)
        self.line(f"{self.paint('FAIL', RED)}  {text}" + (f": {reason}" if reason else ""))
        return False

    def progress(self, text: str) -> None:
        """A line that the next one replaces; on a terminal only."""
        if self.terminal:
            sys.stdout.write(f"\r\x1b[K      {self.paint(text, DIM)}")
            sys.stdout.flush()
            self._progress = True

    def line(self, text: str) -> None:
        if self._progress:
            sys.stdout.write("\r\x1b[K")
            self._progress = False
        print(text, flush=True)

    def paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text
