"""What `errata serve` says."""

from __future__ import annotations


def serve(line: str) -> str:
    """Return a line as it is: a link must not be broken into two."""
    return line
