"""A user's own devices over HTTP: listed, renamed, revoked; what a revocation leaves behind."""

import pytest

from chatty.ids import RoomNumber
from chatty.services.caller import Caller
from tests.olm_devices import OlmDevice
from tests.people import Person
from tests.server.conftest import RunningServer

ROOM = RoomNumber(77)
_JOIN = """INSERT INTO members (room_number, user_number, standing, role, changed_seq, removed_seq, list_version, list_digest,
identity) SELECT %s, user_number, %s, 'member', 1, 0, 0, '', '' FROM users WHERE user_id = %s"""


async def publish(running: RunningServer, person: Person) -> Caller:
    """Upload the device's identity keys: they put it in the set."""
    caller = await running.caller(person)
    await running.steps.keys.upload(caller, OlmDevice(user=caller.user, device=caller.device).upload())
    return caller


async def join(running: RunningServer, person: Person, room: RoomNumber, standing: str = "joined") -> None:
    async with running.pool.transaction() as connection:
        await connection.execute(_JOIN, (room, standing, person.user))


async def stream_kinds(running: RunningServer) -> list[str]:
    return [kind for (kind,) in await running.rows("SELECT kind FROM user_stream ORDER BY seq")]


async def test_a_new_device_is_live_and_outside_the_set(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    [device] = (await ann.ask("GET", "/v1/devices")).json()["devices"]
    assert (device["name"], device["in_set"], device["is_current"]) == ("laptop", False, True)
    state = (await ann.ask("GET", "/v1/device")).json()
    assert (state["device"], state["highest_n"], state["low"]) == (ann.tokens["device"], 0, 1)


async def test_first_keys_put_the_device_in_the_set_and_owe_every_joined_room(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    await join(running, ann, ROOM)
    await join(running, ann, RoomNumber(78), standing="left")
    caller = await publish(running, ann)
    assert (await ann.ask("GET", "/v1/devices")).json()["devices"][0]["in_set"] is True
    assert await running.rows("SELECT room_number, list_version FROM owed_devices") == [(ROOM, 1)]
    assert await running.rows("SELECT list_version FROM users") == [(1,)]
    assert await stream_kinds(running) == ["devices"]
    assert [(bell.rooms, bell.users) for bell in running.doorbells.heard] == [([ROOM], [caller.user_number])]


async def test_a_revoked_device_can_do_nothing_any_more(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    first = dict(ann.tokens)
    lost = await publish(running, ann)
    await ann.log_in()
    running.doorbells.heard.clear()
    assert (await ann.ask("DELETE", f"/v1/devices/{first['device']}")).status_code == 200
    assert (await ann.refresh(first["refresh_token"])).json()["code"] == "refresh_refused"
    refused = await ann.prover.ask(running.http, "GET", "/v1/account", access_token=first["access_token"])
    assert (refused.status_code, refused.json()["code"]) == (401, "device_revoked")
    sends = await running.rows("SELECT is_live FROM device_send WHERE device_number = %s", lost.device_number)
    assert sends == [(False,)]
    assert await running.rows("SELECT device_number FROM revocations") == [(lost.device_number,)]
    assert [bell.revoked for bell in running.doorbells.heard] == [[lost.device_number]]


async def test_a_revocation_from_the_set_owes_every_room_and_changes_the_digest(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    await join(running, ann, ROOM)
    [(empty,)] = await running.rows("SELECT list_digest FROM users")
    await publish(running, ann)
    [(full,)] = await running.rows("SELECT list_digest FROM users")
    lost = ann.tokens["device"]
    await ann.log_in()
    await ann.ask("DELETE", f"/v1/devices/{lost}")
    assert await running.rows("SELECT list_version FROM owed_devices ORDER BY 1") == [(1,), (2,)]
    [(after,)] = await running.rows("SELECT list_digest FROM users")
    assert after == empty != full
    listed = (await ann.ask("GET", "/v1/devices")).json()["devices"]
    assert [device["device"] for device in listed] == [ann.tokens["device"]]


async def test_a_device_that_was_never_in_the_set_owes_nobody(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    await join(running, ann, ROOM)
    await ann.ask("POST", "/v1/logout", json={})
    assert await running.rows("SELECT 1 FROM owed_devices") == []
    assert await running.rows("SELECT list_version FROM users") == [(0,)]
    assert await stream_kinds(running) == ["devices"]


async def test_a_device_is_renamed_by_its_owner(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    device = ann.tokens["device"]
    assert (await ann.ask("PUT", f"/v1/devices/{device}/name", json={"name": "phone"})).status_code == 200
    [shown] = (await ann.ask("GET", "/v1/devices")).json()["devices"]
    assert shown["name"] == "phone"
    assert await running.rows("SELECT list_version FROM users") == [(0,)], "a name changes no list"


@pytest.mark.parametrize("name", ["x" * 65, "line\nbreak", "nul\0"])
async def test_device_names_are_short_and_on_one_line(running: RunningServer, name: str) -> None:
    ann = running.person()
    await ann.register()
    answer = await ann.ask("PUT", f"/v1/devices/{ann.tokens['device']}/name", json={"name": name})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


async def test_other_peoples_devices_do_not_exist(running: RunningServer) -> None:
    ann, bob = running.person("ann"), running.person("bob")
    await ann.register()
    await bob.register()
    device = ann.tokens["device"]
    for answer in (
        await bob.ask("DELETE", f"/v1/devices/{device}"),
        await bob.ask("PUT", f"/v1/devices/{device}/name", json={"name": "mine"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert (await ann.ask("GET", "/v1/account")).status_code == 200


async def test_each_step_leaves_its_audit_row_with_the_request_id(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    device = ann.tokens["device"]
    await publish(running, ann)
    renamed = await ann.ask("PUT", f"/v1/devices/{device}/name", json={"name": "phone"})
    await ann.ask("DELETE", f"/v1/devices/{device}")
    named = "SELECT action, request_id = %s FROM audit ORDER BY audit_id"
    rows = await running.rows(named, renamed.headers["X-Request-Id"])
    assert rows == [
        ("account.registered", False),
        ("device.keys_published", False),
        ("device.renamed", True),
        ("device.revoked", False),
    ]
