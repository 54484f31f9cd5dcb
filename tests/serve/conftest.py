"""Tests of the server are left out where its extra is not installed."""

from __future__ import annotations

from importlib.util import find_spec

_NEEDED = ("fastapi", "uvicorn", "sse_starlette", "prometheus_client", "jinja2", "httpx2")
collect_ignore_glob = ["test_*.py"] if any(find_spec(name) is None for name in _NEEDED) else []
if not collect_ignore_glob:
    from tests.serve.served import client, lm, say, write  # noqa: F401
