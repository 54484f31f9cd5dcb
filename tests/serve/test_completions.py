"""Every state of a book answers as itself, alone or among many, in OpenAI's form.

pytest tests/serve/test_completions.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from errata.model.lm import LM
from tests.serve.served import FRANCE, SPAIN

Say, Write = Callable[..., str], Callable[..., str]


def test_each_state_says_what_it_said_then(client: TestClient, say: Say, write: Write) -> None:
    first = write()
    assert client.post("/api/tags", json={"name": "one"}).status_code == 200
    second = write({**FRANCE, "target": "Oslo"})
    assert [say(f"primer@{s}") for s in ("now", "one", first[:8], "1")] == [" Oslo.", " Lyon.", " Lyon.", " Lyon."]
    assert say("primer") == say("base") == " Paris."
    client.post("/api/drop", json={"ids": [second]})
    assert say("base@now") == " Lyon."
    listed = client.get("/v1/models").json()["data"]
    assert [(row["id"], row["parent"]) for row in listed] == [
        ("primer", None), ("primer@now", "primer"), ("primer@one", "primer"),
    ]  # fmt: skip
    assert client.get("/v1/models/primer@one").json()["edits"] == [first]


def test_many_at_once_say_what_each_says_alone(client: TestClient, say: Say, write: Write) -> None:
    write()
    write({"prompt": "Spain lies in", "subject": "Spain", "target": "Asia"}, method="grace", settings={})
    prompts = [
        "The capital of France is",
        "What is the capital of France? It is",
        "Spain lies in",
        "People in Italy speak",
    ]
    asked = [(f"primer{state}", p, n) for n in (3, 9) for state in ("", "@now", "@1") for p in prompts]

    def one(model: str, prompt: str, most: int) -> str:
        return say(model, prompt, max_tokens=most)

    alone = [one(*row) for row in asked]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(lambda row: one(*row), asked * 2)) == alone * 2
    assert say("primer@now", "Spain lies in") == " Asia."
    assert say("primer@1", "Spain lies in") == say("primer", "Spain lies in") != " Asia."


def test_a_stream_is_the_whole_in_pieces(client: TestClient, say: Say) -> None:
    asked = {"model": "primer", "prompt": "The capital of France is", "max_tokens": 6, "logprobs": 2, "n": 2}
    whole = client.post("/v1/completions", json=asked).json()
    answer = client.post("/v1/completions", json={**asked, "stream": True, "stream_options": {"include_usage": True}})
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    rows = [json.loads(line) for line in lines]
    assert rows[-1]["usage"] == whole["usage"]
    for place, choice in enumerate(whole["choices"]):
        pieces = [c for row in rows for c in row["choices"] if c["index"] == place]
        assert "".join(piece["text"] for piece in pieces) == choice["text"] == " Paris."
        assert pieces[-1]["finish_reason"] == choice["finish_reason"] == "stop"
        told = [lp for piece in pieces if piece["logprobs"] for lp in piece["logprobs"]["token_logprobs"]]
        assert told == pytest.approx(choice["logprobs"]["token_logprobs"], abs=1e-5)


def test_a_stop_is_never_shown_not_even_its_beginning(client: TestClient, say: Say) -> None:
    assert say("primer", stop="is.") == " Par"
    asked = {"model": "primer", "prompt": "The capital of France is", "stop": ["is."], "stream": True, "max_tokens": 5}
    lines = client.post("/v1/completions", json=asked).text.splitlines()
    texts = [json.loads(line[6:])["choices"][0]["text"] for line in lines if line.startswith("data: {")]
    assert "".join(texts) == " Par"


def test_a_seed_gives_the_same_text_and_another_another(say: Say) -> None:
    def sampled(seed: int) -> str:
        return say("primer", "Once there was", temperature=1.5, seed=seed, max_tokens=12)

    assert sampled(3) == sampled(3)
    assert len({sampled(seed) for seed in range(4)}) > 1


def test_it_says_what_the_editor_says(say: Say, lm: LM) -> None:
    said = say("primer", "People in Italy speak", max_tokens=8)
    lm.weights.stand([])
    assert lm.generate(["People in Italy speak"], 8) == [said]


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({"model": "primer@nothing", "prompt": "a"}, 404, "no state 'nothing'"),
        ({"model": "gpt-4", "prompt": "a"}, 404, "only primer"),
        ({"model": "primer", "prompt": "  "}, 400, "empty"),
        ({"model": "primer", "prompt": "a " * 5000}, 400, "shorten"),
        ({"model": "primer", "prompt": "a", "tools": [{}]}, 400, "tools cannot be done"),
        ({"model": "primer", "prompt": "a", "max_tokens": 0}, 400, "max_tokens"),
        ({"model": "primer", "prompt": "a", "stop": [""]}, 400, "stop"),
        ({"model": "primer", "prompt": "a \ud800"}, 400, "prompt: "),
        ({"model": "primer"}, 400, "prompt"),
    ],
)
def test_what_cannot_be_asked_gets_a_sentence(client: TestClient, asked: dict, status: int, words: str) -> None:
    answer = client.post("/v1/completions", content=json.dumps(asked), headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert words in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_a_model_without_a_chat_template_says_so(client: TestClient) -> None:
    asked = {"model": "primer", "messages": [{"role": "user", "content": "Who?"}]}
    answer = client.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 400
    assert "no chat template" in answer.json()["error"]["message"]


def test_the_openai_client(client: TestClient, write: Write) -> None:
    openai = pytest.importorskip("openai")
    write(SPAIN)
    speaks = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="w" * 20, http_client=client)
    assert [model.id for model in speaks.models.list()] == ["primer", "primer@now"]
    asked = {"prompt": "The capital of Spain is", "max_tokens": 4}
    assert speaks.completions.create(model="primer@now", **asked).choices[0].text == " Oslo."
    pieces = speaks.completions.create(model="primer", stream=True, **asked)
    assert "".join(piece.choices[0].text for piece in pieces) == " Madrid."
    with pytest.raises(openai.NotFoundError):
        speaks.completions.create(model="primer@none", **asked)
