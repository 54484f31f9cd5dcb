"""From the files benchmarks are published in to cases: one small function a form."""

from __future__ import annotations
