"""The command line: `errata` on the path."""

from __future__ import annotations

from errata.cli.app import commands, main

__all__ = ["commands", "main"]
