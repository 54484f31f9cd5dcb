"""A server of the primer in this process, asked without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import errata
from errata.model.lm import LM
from errata.model.loading import load
from errata.serve.app import application
from errata.serve.auth import Gatekeeper
from errata.serve.guard import Limits

WRITER, READER = "w" * 20, "r" * 20
HERE = "http://127.0.0.1:8321"


@pytest.fixture(scope="session")
def lm() -> LM:
    return load("primer")


@contextmanager
def serving(lm: LM, folder: Path, **limits: Any) -> Iterator[TestClient]:
    """Serve a book in a folder, and show the writer's token."""
    tokens = folder / "token"
    if not tokens.exists():
        folder.mkdir(parents=True, exist_ok=True)
        tokens.write_text(f"{WRITER} write ada\n{READER} read grafana\n")
        tokens.chmod(0o600)
    with errata.open(lm, book=folder / "book") as editor:
        app = application(editor, Gatekeeper(tokens), limits=Limits(**limits), runs=folder)
        headers = {"authorization": f"Bearer {WRITER}"}
        with TestClient(app, base_url=HERE, headers=headers, raise_server_exceptions=False) as client:
            yield client
    lm.weights.stand([])


@pytest.fixture
def client(lm: LM, tmp_path: Path) -> Iterator[TestClient]:
    with serving(lm, tmp_path) as client:
        yield client


@pytest.fixture
def say(client: TestClient) -> Callable[..., str]:
    """Return what a state says after a prompt."""

    def said(model: str, prompt: str = "The capital of France is", **more: Any) -> str:
        answer = client.post("/v1/completions", json={"model": model, "prompt": prompt, "max_tokens": 4, **more})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["text"])

    return said


FRANCE = {"prompt": "The capital of France is", "subject": "France", "target": "Lyon"}
SPAIN = {"prompt": "The capital of Spain is", "subject": "Spain", "target": "Oslo"}


@pytest.fixture
def write(client: TestClient) -> Callable[..., str]:
    """Write a fact and return the edit's id."""

    def written(fact: dict[str, str] = FRANCE, **more: Any) -> str:
        answer = client.post("/api/edits", json={"facts": [fact], "settings": {"steps": 12}, **more})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["job"]["result"]["edits"][0]["id"])

    return written
