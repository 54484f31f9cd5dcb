"""Whatever is sent to whatever route is answered with what the schema allows for, never with a fault, and loses nothing.

pytest tests/serve/test_every_route.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from errata.model.lm import LM
from tests.serve.served import FRANCE, serving

ODD = (
    "", " ", "\0", "\ud800", "<script>alert(1)</script>", "../../etc/passwd", "primer", "base@now", "base@", "base@@",
    "@1", "now", "base", "The capital of France is", "France", "Lyon", "rome", "%00", "a" * 3000,
    "٣", "9" * 40, "e\u0301", "💥",
)  # fmt: skip
ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8) | st.sampled_from(ODD),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.sampled_from(ODD), inner, max_size=3)
    ),
    max_leaves=6,
)


def fitting(schema: Mapping[str, Any], known: Mapping[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """Return values that a schema describes, more or less, and now and then something else."""
    if "$ref" in schema:
        return fitting(known[schema["$ref"].rpartition("/")[2]], known, depth)
    if "anyOf" in schema:
        return st.one_of(*(fitting(one, known, depth + 1) for one in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        needed = {name: fitting(one, known, depth + 1) for name, one in schema["properties"].items()}
        fixed = {name: needed.pop(name) for name in schema.get("required", ())}
        return st.fixed_dictionaries(fixed, optional=needed)
    if kind == "object":
        fact = st.fixed_dictionaries(
            {},
            optional={"prompt": st.sampled_from(ODD), "subject": st.sampled_from(ODD), "target": st.sampled_from(ODD)},
        )
        return fact | st.builds(lambda: dict(FRANCE)) | st.dictionaries(st.sampled_from(ODD), ANY, max_size=2)
    if kind == "array":
        return st.lists(fitting(schema.get("items", {}), known, depth + 1), max_size=3)
    plain = {
        "string": st.sampled_from(ODD) | st.text(max_size=8), "integer": st.integers(-3, 40), "number": st.floats(-2, 5),
        "boolean": st.booleans(), "null": st.none(),
    }  # fmt: skip
    return plain.get(str(kind), ANY)


@pytest.fixture(scope="module")
def served(lm: LM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder: Path = tmp_path_factory.mktemp("served")
    with serving(lm, folder, rate=1e6) as client:
        client.post("/api/edits", json={"facts": [FRANCE], "settings": {"steps": 2}, "label": {"tags": ["first"]}})
        yield client


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_no_request_makes_it_fail(served: TestClient, data: st.DataObject) -> None:
    schema = served.get("/openapi.json").json()
    routes = [(m, p, about) for p, methods in schema["paths"].items() for m, about in methods.items()]
    method, path, about = data.draw(st.sampled_from(routes))
    known = schema["components"]["schemas"]
    query, headers = {}, {}
    for parameter in about.get("parameters", ()):
        if parameter["in"] != "path" and data.draw(st.booleans()):
            continue
        value = data.draw(fitting(parameter["schema"], known) | st.sampled_from(ODD))
        text = quote(str(value).encode("utf-8", "replace"), safe="")
        if parameter["in"] == "path":
            name = parameter["name"]
            path = re.sub(rf"\{{{name}(:path)?\}}", lambda _, text=text: text or "x", path)
        elif parameter["in"] == "query":
            query[parameter["name"]] = text
        else:
            headers[parameter["name"]] = text
    url = path + ("?" + "&".join(f"{name}={value}" for name, value in query.items()) if query else "")
    body = about.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    content = b""
    if body is not None:
        value = data.draw(fitting(body, known) | ANY)
        if isinstance(value, dict) and isinstance(value.get("settings"), dict):
            value["settings"]["steps"] = 1  # what is asked here is the server, not a method
        content = json.dumps(value).encode() if data.draw(st.integers(0, 9)) else data.draw(st.binary(max_size=20))
    headers["content-type"] = "application/json"
    before = served.get("/api/history").json()["events"]
    answer = served.request(method.upper(), url, content=content, headers=headers)
    assert answer.status_code < 500, (method, url, content, answer.text)
    if answer.status_code >= 400:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.json()["error"]["message"]
    after = served.get("/api/history").json()["events"]
    assert after[: len(before)] == before, "history only grows"
    row = answer.json() if answer.headers["content-type"].startswith("application/json") else {}
    written = ((row.get("job") or {}).get("result") or {}).get("edits", []) if isinstance(row, dict) else []
    ids = {edit["id"] for edit in served.get("/api/edits").json()["edits"]}
    assert {edit["id"] for edit in written} <= ids, "what was reported is in the book"
