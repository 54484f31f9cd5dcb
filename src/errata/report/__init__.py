"""Run directories in, one HTML page out that a person wants to read: `build` returns it, `write` keeps it in a file."""

from __future__ import annotations

from errata.report.page import build, write

__all__ = ["build", "write"]
