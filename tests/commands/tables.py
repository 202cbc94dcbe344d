"""Tables that a command printed."""

from __future__ import annotations


def rows(printed: str, label: str) -> list[str]:
    """The figures of every row with this label, one blank between them."""
    found = (line for line in printed.splitlines() if line.startswith(f"{label} "))
    return [" ".join(line.removeprefix(label).split()) for line in found]
