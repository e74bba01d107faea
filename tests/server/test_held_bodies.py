"""A request whose body is held back while its sender is put out: it does nothing when the body comes.

Who sends it was let in when the headers came, as for any request. Two things stand in the way then: a body that was long in
coming has its sender looked at again, and what acts looks once more under the locks. Each is tested with the other taken away.
"""

import math
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio

from chatty.services.tokens import TokenSteps
from chatty.web import application
from tests.server.app_fixtures import open_chat, without_limits
from tests.server.scenes import Scene, make_scene
from tests.server.whole_requests import WholeRequest, whole_request

# They change nothing, or nothing that is not the caller's own to see; in a moment at most (application.body_wait_free_s).
# Of the console it is a question; its acts look under the locks too.
READ_ONLY = {"post_v1_keys_query", "post_v1_account_export", "post_v1_admin_console", "post_v1_undecryptables"}


@pytest.fixture
def arrivals(monkeypatch: pytest.MonkeyPatch) -> trio.MemoryReceiveChannel[None]:
    """One for each request that was let in."""
    note, arrivals = trio.open_memory_channel[None](math.inf)
    authenticate = TokenSteps.authenticate

    async def noted(steps: TokenSteps, *arguments: Any) -> Any:
        caller = await authenticate(steps, *arguments)
        note.send_nowait(None)
        return caller

    monkeypatch.setattr(TokenSteps, "authenticate", noted)
    return arrivals


async def held(scene: Scene, whole: WholeRequest, arrivals: trio.MemoryReceiveChannel[None]) -> str:
    """Ask, be revoked by one's other device, send the body: the code of the answer, "" for a success."""
    content = msgspec.json.encode(whole.body)
    may_go_on, answers = trio.Event(), list[httpx.Response]()

    async def body() -> AsyncIterator[bytes]:
        await may_go_on.wait()
        yield content

    async def ask() -> None:
        headers = {**whole.headers, "Content-Length": str(len(content))}
        async with httpx.AsyncClient(base_url=scene.ann.origin, verify=False) as http:
            answers.append(
                await scene.ann.person.prover.ask(
                    http,
                    whole.route.method,
                    whole.path,
                    access_token=scene.ann.access_token,
                    headers=headers,
                    content=body(),
                )
            )

    while arrivals.statistics().current_buffer_used:
        await arrivals.receive()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await arrivals.receive()
            assert (await scene.spare.answer("DELETE", f"/v1/devices/{scene.ann.device}")).is_success
            may_go_on.set()
    return "" if answers[0].is_success else str(answers[0].json()["code"])


@pytest.mark.long
@pytest.mark.parametrize("free_s", [0.0, math.inf], ids=["looked at again", "under the locks"])
async def test_a_held_body_of_a_revoked_device_does_nothing(
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arrivals: trio.MemoryReceiveChannel[None],
    free_s: float,
    counts: Callable[[int, int], int],
    seed: int,
) -> None:
    monkeypatch.setattr(application, "body_wait_free_s", free_s)
    found = {}
    async with open_chat(database, tmp_path, **without_limits()) as chat:
        held_routes = [route for route in chat.app.routes if route.body is not None and route.permission.needs_caller]
        for route in random.Random(seed).sample(held_routes, counts(len(held_routes) // 3, len(held_routes))):
            scene = await make_scene(chat, "owner")
            whole = await whole_request(route, scene)
            found[route.operation] = await held(scene, whole, arrivals)
    accepted = {operation for operation, code in found.items() if code not in {"device_revoked", "unauthenticated"}}
    assert accepted == (READ_ONLY & found.keys() if free_s else set())
