"""Prometheus' text format, written by hand: prometheus_client would cost the agent five megabytes.

Knows the format (escaping, HELP and TYPE lines, cumulative buckets) and nothing of what is measured.
"""

from __future__ import annotations

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LABEL = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_HELP = str.maketrans({"\\": "\\\\", "\n": "\\n"})


def labels_text(labels: dict[str, str]) -> str:
    """name="value",... without the braces."""
    return ",".join(f'{name}="{value.translate(_LABEL)}"' for name, value in labels.items())


def bound_text(bound: float) -> str:
    """As Envoy and Prometheus' own clients write a bucket's bound: 0.5, 1, 1800000."""
    return str(int(bound)) if bound == int(bound) else repr(bound)


class Exposition:
    """The families of one scrape, in the order in which they were begun."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._name = ""

    def family(self, name: str, kind: str, about: str) -> None:
        """Begin a family; all its samples follow before the next one begins."""
        self._name = name
        self._lines.append(f"# HELP {name} {about.translate(_HELP)}")
        self._lines.append(f"# TYPE {name} {kind}")

    def sample(self, value: float, labels: str = "", suffix: str = "") -> None:
        """One line of the family; `labels` as from labels_text."""
        text = str(value) if isinstance(value, int) else repr(value)
        braces = f"{{{labels}}}" if labels else ""
        self._lines.append(f"{self._name}{suffix}{braces} {text}")

    def gauge(self, name: str, about: str, value: float) -> None:
        """A gauge without labels."""
        self.family(name, "gauge", about)
        self.sample(value)

    def counter(self, name: str, about: str, value: float) -> None:
        self.family(name, "counter", about)
        self.sample(value)

    def histogram(self, bounds: tuple[float, ...], bins: list[int], total: float, labels: str) -> None:
        """One histogram of the family; `bins` are per bucket, the last one has no bound."""
        count = 0
        lead = f"{labels}," if labels else ""
        for bound, n in zip([*map(bound_text, bounds), "+Inf"], bins, strict=True):
            count += n
            self.sample(count, f'{lead}le="{bound}"', "_bucket")
        self.sample(total, labels, "_sum")
        self.sample(count, labels, "_count")

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"
