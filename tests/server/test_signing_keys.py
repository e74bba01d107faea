"""Signing keys take turns while people send and refresh, and nobody's request fails."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio

from chatty.crypto.tokens import access_lifetime_s_max, overlap_margin_s
from chatty.errors import StoreUnavailable
from chatty.services.signing_keys import SIGNING_KEY, SigningKeys, SigningKeySteps, reload_pause_s
from chatty.services.units import Transactions
from chatty.telemetry import configure_logging
from chatty.wire import frames
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.commands import chatty_admin_json
from tests.server.conftest import RunningServer
from tests.server.wire_client import UNPROVEN, ciphertext, open_live_socket
from tests.server.wire_people import WireDevice

pytestmark = pytest.mark.usefixtures("logging_as_before")


def key_id(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


async def published(chat: RunningApp) -> set[str]:
    return {key["kid"] for key in (await chat.http.get("/v1/jwks")).json()["keys"]}


@asynccontextmanager
async def rotating(database: str, tmp_path: Path) -> AsyncIterator[RunningApp]:
    """A server whose keys take their turns after a second."""
    configure_logging("error")  # the commands of these tests answer on stdout
    async with open_chat(database, tmp_path, signing_key_prepare_s=1, limit_registrations_address="off") as chat:
        yield chat


@pytest.mark.long
async def test_keys_rotate_while_people_send_and_refresh_and_no_request_fails(
    database: str, tmp_path: Path, counts: Callable[[int, int], int]
) -> None:
    async with rotating(database, tmp_path) as chat:
        people = await chat.sign_up_all(*[f"p{number}" for number in range(counts(8, 50))])
        before = key_id(people[0].access_token)
        seen: list[set[str]] = [set() for _ in people]
        rotated = trio.Event()
        async with trio.open_nursery() as nursery:
            for device, keys in zip(people, seen, strict=True):
                nursery.start_soon(talk_and_refresh, device, keys, rotated)
            await until_all_have(seen, {before})
            answer = await chatty_admin_json(chat.settings.data_dir, "keys", "rotate")
            assert (answer["state"], answer["version"]) == ("prepared", 2)
            await until_all_have(seen, {before, answer["key_id"]})
            rotated.set()
        listed = (await chatty_admin_json(chat.settings.data_dir, "keys", "list"))["keys"]
        assert [(one["key_id"], one["state"]) for one in listed] == [
            (before, "verifying"),
            (answer["key_id"], "signing"),
        ]
        assert {before, answer["key_id"]} < await published(chat)
        actions = await chat.rows("SELECT object FROM audit WHERE action = 'signing_key.prepared'")
        assert actions == [(answer["key_id"],)]


async def talk_and_refresh(device: WireDevice, keys: set[str], rotated: trio.Event) -> None:
    """Any refusal is an error, and fails the test."""
    room = await device.create_room()
    async with open_live_socket(device) as socket:
        while not rotated.is_set():
            await socket.send(room.id, ciphertext(), epoch=room.epoch)
            answer = await device.person.refresh(device.tokens["refresh_token"])
            assert answer.status_code == 200, answer.text
            device.tokens = answer.json()
            keys.add(key_id(device.access_token))
            await socket.ask(
                frames.Token(id=socket.request_id(), access_token=device.access_token, dpop_proof=UNPROVEN)
            )
            await device.get("/v1/account")
            await trio.sleep(0.2)


async def until_all_have(seen: list[set[str]], wanted: set[str]) -> None:
    with trio.fail_after(60):
        while not all(keys >= wanted for keys in seen):  # noqa: ASYNC110 # many tasks fill many sets
            await trio.sleep(0.05)


async def test_a_key_that_waits_for_its_turn_is_not_followed_by_another(chat: RunningApp) -> None:
    configure_logging("error")
    first = await chatty_admin_json(chat.settings.data_dir, "keys", "rotate")
    assert await chatty_admin_json(chat.settings.data_dir, "keys", "rotate") | {
        "age_s": 0,
        "signs_in_s": 0,
    } == first | {
        "age_s": 0,
        "signs_in_s": 0,
    }
    assert await chat.rows("SELECT count(*) FROM sealed_keys WHERE purpose = %s", SIGNING_KEY) == [(2,)]


# One node's own view ------------------------------------------------------------------------------------------------


def turns(running: RunningServer, keys: SigningKeys, **changes: Any) -> SigningKeySteps:
    usual: dict[str, Any] = {"prepare_s": 60, "rotation_age_s": 1_000}
    return SigningKeySteps(
        keys,
        units=running.store.units,
        sealer=running.store.keys.sealer,
        random=lambda count: b"s" * count,
        clock_s=running.clock,
        **(usual | changes),
    )


async def other_node(running: RunningServer, units: Transactions[Any] | None = None) -> SigningKeys:
    keys = SigningKeys(
        running.store.keys.signing,
        units=units or running.store.units,
        sealer=running.store.keys.sealer,
        clock_s=running.clock,
        turn=trio.Lock(),
    )
    await keys.read()
    return keys


@dataclass
class CountedReads(Transactions[Any]):
    """The store, as seen by one node that may lose it."""

    units: Transactions[Any]
    is_lost: bool = False
    count: int = 0

    def begin(self) -> AbstractAsyncContextManager[Any]:
        return self.units.begin()

    def autocommit(self) -> AbstractAsyncContextManager[Any]:
        return self.units.autocommit()

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        self.count += 1
        async with self.units.snapshot() as unit:
            yield unit
            if self.is_lost:
                raise StoreUnavailable("the connection broke")


@pytest.mark.parametrize("is_lost", [False, True])
async def test_many_who_show_unknown_keys_at_once_cost_one_read(running: RunningServer, is_lost: bool) -> None:
    units = CountedReads(running.store.units)
    keys = await other_node(running, units)
    outcomes: list[str] = []

    async def look() -> None:
        try:
            await keys.read_for_unknown()
            outcomes.append("looked")
        except StoreUnavailable:
            outcomes.append("lost")

    running.clock.offset_s += reload_pause_s
    units.is_lost, units.count = is_lost, 0
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(look)
    assert units.count == 1
    assert outcomes == ["lost" if is_lost else "looked"] * 20
    running.clock.offset_s += reload_pause_s
    units.is_lost = False
    await keys.read_for_unknown()
    assert units.count == 2, "after a pause somebody looks again"


async def test_a_token_of_a_key_that_another_node_made_is_taken(running: RunningServer) -> None:
    """This node has not read the keys since: it looks once more before it says no."""
    ann = running.person()
    await ann.register()
    other = await other_node(running)
    made = await turns(running, other).rotate()
    running.clock.offset_s = 61
    answer = await ann.refresh(ann.tokens["refresh_token"])
    ann.tokens = answer.json()
    signed_here = key_id(ann.tokens["access_token"])
    assert signed_here != made.key_id
    claims = jwt.decode(ann.tokens["access_token"], options={"verify_signature": False})
    key = other.signing(now_s=running.clock())
    assert key.key_id == made.key_id
    ann.tokens["access_token"] = jwt.encode(claims, key.private, "EdDSA", headers={"typ": "at+jwt", "kid": key.key_id})
    assert (await ann.ask("GET", "/v1/account")).status_code == 200


async def test_the_job_prepares_a_key_when_the_newest_is_old_and_deletes_what_is_over(running: RunningServer) -> None:
    keys = await other_node(running)
    job = turns(running, keys)
    await job.step()
    assert len(await job.listed()) == 1
    async with running.pool.transaction() as connection:
        await connection.execute("UPDATE sealed_keys SET created_at = now() - interval '1001 seconds'")
    await job.step()
    assert [state.state for state in await job.listed()] == ["signing", "prepared"]
    running.clock.offset_s = 61
    assert [state.state for state in await job.listed()] == ["verifying", "signing"]
    running.clock.offset_s = 60 + access_lifetime_s_max + overlap_margin_s
    await job.step()
    assert len(await job.listed()) == 2, "what it signed last may live still"
    running.clock.offset_s = 61 + access_lifetime_s_max + 2 * overlap_margin_s
    await job.step()
    assert [state.state for state in await job.listed()] == ["signing"]
    recorded = await running.rows("SELECT action FROM audit WHERE action LIKE 'signing_key.%%' ORDER BY audit_id")
    assert recorded == [("signing_key.prepared",), ("signing_key.retired",)]
