"""/openapi.json against the running server: whatever is asked, the answer is one that the document names."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import trio

from tests.server.app_fixtures import RunningApp, open_chat, without_limits
from tests.server.scenes import make_scene
from tests.server.schema_cases import Fuzz
from tests.server.whole_requests import whole_request

Counts = Callable[[int, int], int]


@pytest.fixture
async def unlimited(database: str, tmp_path: Path) -> AsyncIterator[RunningApp]:
    async with open_chat(database, tmp_path, **without_limits()) as chat:
        yield chat


async def test_a_whole_request_of_each_route_succeeds(unlimited: RunningApp) -> None:
    """So that none is described which nobody can use, and the tests below begin with what works."""
    document = (await unlimited.http.get("/openapi.json")).json()
    scene = await make_scene(unlimited, "owner")
    refused: dict[str, str] = {}
    for route in unlimited.app.routes:
        answer = await (await whole_request(route, scene)).ask(scene)
        if not answer.is_success:  # those before it may have ended what it needs
            scene = await make_scene(unlimited, "owner")
            answer = await (await whole_request(route, scene)).ask(scene)
        if not answer.is_success:
            refused[route.operation] = answer.text
        check(document, route.path, answer)
    assert refused == {}


# The server's loop draws random numbers, too; Hypothesis takes that for a strategy's.
strategies_draw = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")


@strategies_draw
@pytest.mark.long
@pytest.mark.parametrize("role", ["user", "owner"])
async def test_every_answer_is_one_that_the_document_names(
    unlimited: RunningApp, role: str, counts: Counts, seed: int
) -> None:
    document = (await unlimited.http.get("/openapi.json")).json()

    def run() -> Fuzz:
        fuzz = Fuzz(unlimited, role, document, seed)
        for operation in fuzz.operations:
            if counts(0, 1):
                fuzz.begin(operation)
                fuzz.edges(operation)
            fuzz.draw(operation, counts({"user": 1, "owner": 2}[role], 40))
        return fuzz

    fuzz = await trio.to_thread.run_sync(run)
    asked: Counter[str] = Counter()
    for (label, _), times in fuzz.answers.items():
        asked[label] += times
    assert not fuzz.faults, "\n".join(fuzz.faults.values())
    assert len(asked) == len(fuzz.operations)
    assert min(asked.values()) >= counts(1, 30)
    assert asked.total() >= counts(len(asked), 2_000)
    if counts(0, 1):
        never_succeeded = asked.keys() - {label for label, status in fuzz.answers if status < 300}
        assert never_succeeded == {label for label in asked if role == "user" and " /v1/admin/" in label}


@strategies_draw
@pytest.mark.long
async def test_every_answer_in_a_chain_of_linked_requests_is_one_that_the_document_names(
    unlimited: RunningApp, counts: Counts, seed: int
) -> None:
    document = (await unlimited.http.get("/openapi.json")).json()

    def run() -> Fuzz:
        fuzz = Fuzz(unlimited, "owner", document, seed)
        fuzz.chains(counts(3, 40), steps_count=counts(6, 12))
        return fuzz

    fuzz = await trio.to_thread.run_sync(run)
    assert not fuzz.faults, "\n".join(fuzz.faults.values())
    assert fuzz.followed.total() >= counts(3, 100)


def check(document: dict[str, Any], path: str, answer: httpx.Response) -> None:
    declared = document["paths"][path][answer.request.method.lower()]["responses"][str(answer.status_code)]["content"]
    schema = {**declared[answer.headers["content-type"]]["schema"], "components": document["components"]}
    is_json = answer.headers["content-type"] in ("application/json", "application/problem+json")
    body = answer.json() if is_json else answer.text  # lines of JSON are a text
    jsonschema.Draft202012Validator(schema).validate(body)
