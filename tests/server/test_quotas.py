"""Quotas by role, each at its edge: devices, rooms, members of a room, bytes of a message."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chatty.config import Quota, parse_quota
from chatty.errors import BadConfiguration
from chatty.services.quotas import make_quotas
from chatty.wire.events import Action
from tests.people import new_device_id
from tests.server.app_fixtures import RunningApp, chat_settings, open_chat
from tests.server.conftest import RunningServer, open_server
from tests.server.wire_client import Refused, ciphertext_of, open_live_socket
from tests.server.wire_people import HttpRefused, WireDevice

Open = Callable[..., AbstractAsyncContextManager[RunningApp]]


@pytest.fixture
def opening(database: str, tmp_path: Path) -> Open:
    @asynccontextmanager
    async def open_with(**quotas: Any) -> AsyncIterator[RunningApp]:
        async with open_chat(database, tmp_path, **quotas) as chat:
            yield chat

    return open_with


async def promote(chat: RunningApp, device: WireDevice, role: str) -> None:
    await chat.execute("UPDATE users SET role = %s WHERE user_id = %s", role, device.user)


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("20", Quota(20, {})),
        ("20, bot 2", Quota(20, {"bot": 2})),
        ("20, bot 2, admin 100", Quota(20, {"bot": 2, "admin": 100})),
    ],
)
def test_a_quota_is_a_count_and_others_by_role(text: str, quota: Quota) -> None:
    assert parse_quota(text) == quota
    assert (quota.of("bot"), quota.of("user")) == (quota.by_role.get("bot", 20), 20)


@pytest.mark.parametrize("text", ["", "0", "-1", "20,bot 2", "20, bot", "bot 2", "20, bot 0", "1e3", "20, BOT 2"])
def test_what_is_no_quota_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="count"):
        parse_quota(text)


def test_a_role_that_does_not_exist_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="emperor"):
        make_quotas(chat_settings(tmp_path, quota_devices="20, emperor 7"))


# Devices ------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def two_devices(database: str, tmp_path: Path) -> AsyncIterator[RunningServer]:
    async with open_server(database, tmp_path, quota_devices="2, bot 1") as running:
        yield running


async def test_a_device_too_many_is_refused_and_told_which_there_are(two_devices: RunningServer) -> None:
    ann = two_devices.person()
    await ann.register()
    first = ann.tokens["device"]
    assert (await ann.log_in()).status_code == 201
    refused = await ann.log_in()
    assert (refused.status_code, refused.json()["code"]) == (403, "too_many_devices")
    problem = refused.json()
    assert (problem["quota"], problem["count_max"]) == ("devices", 2)
    assert [one["device"] for one in problem["devices"]] == [first, ann.tokens["device"]]
    assert [one["name"] for one in problem["devices"]] == ["laptop", ""]


async def test_a_log_in_may_replace_a_device(two_devices: RunningServer) -> None:
    ann, eve = two_devices.person(), two_devices.person("eve")
    await ann.register()
    await eve.register()
    lost = dict(ann.tokens)
    await ann.log_in()
    for strange in (eve.tokens["device"], new_device_id(), "x"):
        assert (await ann.log_in(replaces=strange)).json()["code"] == "not_found"
    assert (await ann.log_in(replaces=lost["device"])).status_code == 201
    assert (await ann.refresh(lost["refresh_token"])).json()["code"] == "refresh_refused"
    assert len((await ann.ask("GET", "/v1/devices")).json()["devices"]) == 2
    recorded = await two_devices.rows("SELECT actor, object FROM audit WHERE action = 'device.replaced'")
    assert recorded == [(ann.user, lost["device"])]


async def test_who_cannot_prove_the_password_learns_of_no_device(two_devices: RunningServer) -> None:
    ann = two_devices.person()
    await ann.register()
    await ann.log_in()
    ann.login_seed = bytes(32)
    refused = await ann.log_in()
    assert (refused.json()["code"], "devices" in refused.json()) == ("login_refused", False)


async def test_the_role_decides(two_devices: RunningServer) -> None:
    ann = two_devices.person()
    await ann.register()
    async with two_devices.pool.transaction() as connection:
        await connection.execute("UPDATE users SET role = 'bot'")
    assert (await ann.log_in()).json()["count_max"] == 1


# Rooms --------------------------------------------------------------------------------------------------------------


async def test_so_many_rooms_and_no_more(opening: Open) -> None:
    async with opening(quota_rooms="2, moderator 3") as chat:
        ann = await chat.sign_up("ann")
        for _ in range(2):
            await ann.create_room()
        for _ in range(2):
            await _refused(ann.create_room(), "rooms", 2)
        await promote(chat, ann, "moderator")
        await ann.create_room()
        await _refused(ann.create_room(), "rooms", 3)
        assert await chat.rows("SELECT rooms_created_count FROM users") == [(3,)]


async def test_a_room_has_so_many_members_by_the_role_of_its_creator(opening: Open) -> None:
    async with opening(quota_room_members="2, moderator 3") as chat:
        ann, bob, cid, dan = await chat.sign_up_all("ann", "bob", "cid", "dan")
        room = await ann.create_room(bob)
        invitation = await room.invite(ann, cid)
        joining = room.change(cid, Action.JOIN, cid, invitation=invitation)
        await _refused(joining, "room_members", 2)
        await promote(chat, ann, "moderator")
        await room.join(cid, invited_by=ann)
        await _refused(room.join(dan, invited_by=ann), "room_members", 3)
        await room.leave(bob)
        await room.join(dan, invited_by=ann)


async def _refused(request: Any, quota: str, count_max: int) -> None:
    with pytest.raises(HttpRefused, match="quota_exceeded") as refused:
        await request
    assert (refused.value.problem["quota"], refused.value.problem["count_max"]) == (quota, count_max)


# Messages -----------------------------------------------------------------------------------------------------------


async def test_a_message_is_as_large_as_the_role_may(opening: Open) -> None:
    async with opening(quota_message_bytes="1000, bot 500") as chat:
        ann = await chat.sign_up("ann")
        room = await ann.create_room()
        fits = ciphertext_of(1_000)
        async with open_live_socket(ann) as socket:
            await socket.send(room.id, fits, epoch=room.epoch)
            with pytest.raises(Refused, match="too_large") as refused:
                await socket.send(room.id, ciphertext_of(1_016), epoch=room.epoch)
            assert refused.value.error.details == {"limit": "quota_message_bytes", "bytes_max": 1_000}
        await promote(chat, ann, "bot")
        async with open_live_socket(ann) as socket:
            with pytest.raises(Refused, match="too_large"):
                await socket.send(room.id, fits, epoch=room.epoch)
            await socket.send(room.id, ciphertext_of(500), epoch=room.epoch)
