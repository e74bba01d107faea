"""Log-in sessions: they prove themselves anew, end others, and end by time."""

import secrets
import time

import pytest

from chatty.services.sessions import EndExpiredSessions
from chatty.services.tokens import Lifetimes
from tests.server.app_fixtures import RunningApp
from tests.server.conftest import RunningServer
from tests.server.wire_client import Refused, ciphertext, open_live_socket
from tests.server.wire_people import sign_in

_OLD = "UPDATE refresh_families SET stepped_up_at = now() - interval '1 hour'"
_AGE = "SELECT extract(epoch FROM now() - stepped_up_at)::int / 60 FROM refresh_families ORDER BY created_at"


async def test_a_step_up_makes_this_session_fresh_and_no_other(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    await ann.log_in()
    async with running.pool.transaction() as connection:
        await connection.execute(_OLD)
    nonce = await ann.nonce()
    body = {"nonce": nonce, "signature": ann.sign(nonce, "step_up")}
    assert (await ann.ask("POST", "/v1/step-up", json=body)).status_code == 200
    assert await running.rows(_AGE) == [(60,), (0,)]
    recorded = await running.rows("SELECT actor, device FROM audit WHERE action = 'session.stepped_up'")
    assert recorded == [(ann.user, ann.tokens["device"])]


async def test_a_step_up_needs_the_password_and_says_what_it_is_for(running: RunningServer) -> None:
    ann, eve = running.person(), running.person("eve")
    await ann.register()
    await eve.register()
    async with running.pool.transaction() as connection:
        await connection.execute(_OLD)
    nonce = await ann.nonce()
    signatures = {
        "for a log-in": ann.sign(nonce, "login"),
        "somebody else's": eve.sign(nonce, "step_up"),
        "of another nonce": ann.sign("1.x", "step_up"),
        "for another key": ann.sign(nonce, "step_up", dpop_thumbprint="T" * 43),
    }
    for what, signature in signatures.items():
        answer = await ann.ask("POST", "/v1/step-up", json={"nonce": nonce, "signature": signature})
        assert (answer.status_code, answer.json()["code"]) == (401, "login_refused"), what
    ann.login_seed = secrets.token_bytes(32)
    body = {"nonce": nonce, "signature": ann.sign(nonce, "step_up")}
    assert (await ann.ask("POST", "/v1/step-up", json=body)).json()["code"] == "login_refused"
    assert await running.rows(_AGE) == [(60,), (60,)]


# Ending the others --------------------------------------------------------------------------------------------------


async def test_all_other_devices_are_ended_at_once(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    others = [await sign_in(ann) for _ in range(2)]
    async with open_live_socket(others[0]) as one, open_live_socket(others[1]) as two:
        began = time.monotonic()
        await ann.post("/v1/devices/revoke-others", {})
        assert [(await socket.closed()).code for socket in (one, two)] == [4403, 4403]
        assert time.monotonic() - began < 1
    assert [one["device"] for one in (await ann.get("/v1/devices"))["devices"]] == [ann.device]
    actions = await chat.rows("SELECT object FROM audit WHERE action = 'device.revoked' ORDER BY audit_id")
    assert actions == [(other.device,) for other in others]
    keys = await ann.post("/v1/keys/query", {"device_keys": {ann.user: []}})
    assert list(keys["device_keys"][ann.user]) == [ann.device]
    async with open_live_socket(ann) as socket:
        with pytest.raises(Refused, match="device_set_stale") as stale:
            await socket.send(room.id, ciphertext(), epoch=room.epoch)
        await socket.send(room.id, ciphertext(), epoch=stale.value.error.details["epoch"])


async def test_ending_devices_needs_a_fresh_proof(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    phone = await sign_in(ann)
    await chat.execute(_OLD)
    for method, path, body in (
        ("POST", "/v1/devices/revoke-others", {}),
        ("DELETE", f"/v1/devices/{phone.device}", None),
    ):
        refused = await ann.answer(method, path, body)
        assert (refused.status_code, refused.json()["code"]) == (403, "step_up_required")
        assert refused.json()["age_s_max"] == 600
    nonce = await ann.person.nonce()
    await ann.post("/v1/step-up", {"nonce": nonce, "signature": ann.person.sign(nonce, "step_up")})
    await ann.post("/v1/devices/revoke-others", {})
    assert len((await ann.get("/v1/devices"))["devices"]) == 1


# Ending by time -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["refreshed_at", "created_at"])
async def test_a_log_in_session_that_is_over_ends_with_its_device(running: RunningServer, column: str) -> None:
    ann = running.person()
    await ann.register()
    old = dict(ann.tokens)
    await ann.log_in()
    job = EndExpiredSessions(
        units=running.store.units, doorbells=running.doorbells, lifetimes=Lifetimes(idle_s=1_000, absolute_s=10_000)
    )
    await job.step()
    assert len((await ann.ask("GET", "/v1/devices")).json()["devices"]) == 2
    running.doorbells.heard.clear()
    async with running.pool.transaction() as connection:
        statement = f"UPDATE refresh_families SET {column} = now() - interval '10001 seconds' FROM devices d"
        await connection.execute(
            f"{statement} WHERE d.device_number = refresh_families.device_number AND d.device_id = %s".encode(),
            (old["device"],),
        )
    for _ in range(2):
        assert not await job.step()
    assert [one["device"] for one in (await ann.ask("GET", "/v1/devices")).json()["devices"]] == [ann.tokens["device"]]
    ended = await running.rows("SELECT object, after ->> 'why' FROM audit WHERE action = 'session.ended'")
    assert ended == [(old["device"], "expired")]
    assert [len(bell.revoked) for bell in running.doorbells.heard] == [1]
