"""Sessions, devices, rooms, storage, quotas and actors at the console: asked of a running server, and beside its database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.commands import as_url, chatty_admin, chatty_admin_json
from tests.server.wire_client import ciphertext_of, open_live_socket
from tests.server.wire_people import WireDevice, WireRoom, sign_in

pytestmark = pytest.mark.usefixtures("logging_as_before")
_BYTES = (1_000, 3_000)


@pytest.fixture
async def scene(database: str, tmp_path: Path) -> AsyncIterator["Scene"]:
    """Ann on two devices, bob on one; one room of both, in which ann sent 1,000 bytes and bob 3,000."""
    async with open_chat(database, tmp_path) as chat:
        ann, bob = await chat.sign_up_all("ann", "bob")
        second = await sign_in(ann)
        room = await ann.create_room(bob)
        yield Scene(chat, ann, bob, second, room)


class Scene:
    def __init__(self, chat: RunningApp, ann: WireDevice, bob: WireDevice, second: WireDevice, room: WireRoom) -> None:
        self.chat, self.ann, self.bob, self.second, self.room = chat, ann, bob, second, room
        self.data_dir = chat.settings.data_dir

    async def send(self) -> None:
        for sender, size in zip((self.ann, self.bob), _BYTES, strict=True):
            async with open_live_socket(sender) as socket:
                await socket.send(self.room.id, ciphertext_of(size), epoch=self.room.epoch)

    async def acts(self, *actions: str) -> list[tuple[str, str, str]]:
        return await self.chat.rows(
            "SELECT action, actor, object FROM audit WHERE action = ANY(%s) ORDER BY audit_id", list(actions)
        )


async def test_sessions_and_devices_are_listed_and_ended_and_the_log_has_it(scene: Scene) -> None:
    data_dir, ann = scene.data_dir, scene.ann
    async with open_live_socket(scene.second):
        found = await chatty_admin_json(data_dir, "sessions", "list", "--user", ann.user)
        listed = await chatty_admin_json(data_dir, "devices", "list")
        table = await chatty_admin(data_dir, "sessions", "list")
    by_device = {one["device"]: one for one in found["sessions"]}
    assert {device: one["is_connected"] for device, one in by_device.items()} == {
        ann.device: False,
        scene.second.device: True,
    }
    assert {one["user"] for one in found["sessions"]} == {ann.user}
    assert {one["device"]: one["in_set"] for one in listed["devices"]} == dict.fromkeys(
        [ann.device, scene.bob.device, scene.second.device], True
    )
    assert all(one["device"] in table.stdout for one in found["sessions"])

    session = by_device[scene.second.device]["session"]
    tried = await chatty_admin_json(data_dir, "sessions", "end", "--dry-run", session)
    assert tried == {"session": session, "user": ann.user, "device": scene.second.device, "is_dry_run": True}
    assert len((await chatty_admin_json(data_dir, "sessions", "list", "--user", ann.user))["sessions"]) == 2
    asked = await chatty_admin(data_dir, "sessions", "end", session)
    assert (asked.exit_code, asked.stderr.splitlines()[-1]) == (
        4,
        f"next: {_typed(data_dir, 'sessions', 'end', session, '--yes')}",
    )
    await chatty_admin_json(data_dir, "sessions", "end", "--yes", session)
    assert [
        one["device"] for one in (await chatty_admin_json(data_dir, "sessions", "list", "--user", ann.user))["sessions"]
    ] == [ann.device]
    await chatty_admin_json(data_dir, "devices", "revoke", "--yes", scene.bob.device)
    again = await chatty_admin(data_dir, "devices", "revoke", "--yes", scene.bob.device)
    assert (again.exit_code, again.stderr.split(":")[0]) == (1, "error not_found")
    assert (await scene.bob.answer("GET", "/v1/devices")).json()["code"] == "device_revoked"
    assert await scene.acts("session.ended", "device.revoked") == [
        ("session.ended", "", scene.second.device),
        ("device.revoked", "", scene.bob.device),
    ]


def _typed(data_dir: Path, *words: str) -> str:
    return " ".join(["chatty-admin", "--data-dir", str(data_dir), *words])


async def test_rooms_and_storage_show_sizes_and_members_and_nothing_else(scene: Scene) -> None:
    await scene.send()
    data_dir, room = scene.data_dir, scene.room.id
    [listed] = (await chatty_admin_json(data_dir, "rooms", "list"))["rooms"]
    shown = await chatty_admin_json(data_dir, "rooms", "show", room)
    assert listed["room"] == room
    assert (listed["members_count"], shown["members_count"], shown["messages_count"]) == (2, 2, 2)
    assert shown["members"] == [
        {"user": scene.ann.user, "role": "owner", "standing": "joined"},
        {"user": scene.bob.user, "role": "member", "standing": "joined"},
    ]
    actors = await chatty_admin_json(data_dir, "actors", "show", shown["actor"])
    assert (actors["state"], actors["path"]) == ("running", shown["actor"])
    by_user = await chatty_admin_json(data_dir, "users", "storage")
    by_room = await chatty_admin_json(data_dir, "rooms", "storage")
    sizes = {one["user"]: one["stored_bytes"] for one in by_user["users"]}
    [(stored_bytes,)] = await scene.chat.rows("SELECT sum(octet_length(body))::bigint FROM bodies")
    assert sum(sizes.values()) == stored_bytes  # the ciphertexts, and what both signed as members
    assert sizes[scene.ann.user] > _BYTES[0]
    assert sizes[scene.bob.user] > _BYTES[1]
    assert by_room["rooms"] == [{"room": room, "messages_count": 2, "stored_bytes": sum(sizes.values())}]
    assert shown["stored_bytes"] == by_room["stored_bytes"]
    as_text = await chatty_admin(data_dir, "rooms", "storage")
    assert (as_text.exit_code, room in as_text.stdout) == (0, True)


async def test_a_list_that_goes_on_says_so(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatty.app.console.users_page_count", 1)
    for _ in range(2):
        await chatty_admin_json(scene.data_dir, "users", "invite")
    for words, key in (("list", "user"), ("invitations", "id")):
        found: list[str] = []
        after = ""
        while not found or after:
            page = await chatty_admin_json(scene.data_dir, "users", words, "--after", after)
            found += [one[key] for one in page["users" if words == "list" else words]]
            after = page["next_after"]
        assert (len(set(found)), sorted(found)) == (2, found), words
        table = await chatty_admin(scene.data_dir, "users", words)
        assert table.stderr == f"there are more: --after {found[0]}\n"


async def test_storage_is_added_up_page_by_page(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatty.services.console.storage_rooms_max", 1)
    for _ in range(2):
        await scene.ann.create_room()
    answer = await chatty_admin_json(scene.data_dir, "rooms", "storage")
    assert answer["rooms_count"] == len(answer["rooms"]) == 3
    monkeypatch.setattr("chatty.services.console.storage_rooms_max", 200)
    monkeypatch.setattr("chatty.services.console.storage_events_max", 1)
    assert await chatty_admin_json(scene.data_dir, "rooms", "storage") == answer


async def test_quotas_are_shown_beside_what_is_used(scene: Scene) -> None:
    answer = await chatty_admin_json(scene.data_dir, "users", "quotas", scene.ann.user)
    assert {one["quota"]: one["count"] for one in answer["quotas"]} == {
        "devices": 2,
        "rooms": 1,
        "room_members": None,
        "message_bytes": None,
        "blocks": 0,
    }
    assert {one["quota"]: one["count_max"] for one in answer["quotas"]}["devices"] == 20
    nobody = await chatty_admin(scene.data_dir, "users", "quotas", "@nobody:localhost")
    assert (nobody.exit_code, nobody.stderr.splitlines()[-1]) == (1, "next: chatty-admin users list")


async def test_a_rehearsal_refuses_what_the_act_would_and_leaves_nothing(scene: Scene) -> None:
    data_dir, user = scene.data_dir, scene.ann.user
    await scene.chat.execute("UPDATE users SET role = 'owner' WHERE user_id = %s", user)
    before = await scene.chat.rows("SELECT count(*) FROM audit")
    for words in (["lock"], ["role"], ["delete"]):
        refused = await chatty_admin(
            data_dir, "users", *words, "--dry-run", user, *(["user"] if words == ["role"] else [])
        )
        assert (refused.exit_code, refused.stderr.split(":")[0]) == (1, "error last_owner")
    done = {
        words: await chatty_admin_json(data_dir, "users", *words.split(), "--dry-run")
        for words in (
            f"lock {scene.bob.user}",
            f"end-sessions {user}",
            f"role {scene.bob.user} admin",
            f"delete {scene.bob.user}",
            "invite",
        )
    }
    assert all(answer["is_dry_run"] for answer in done.values())
    assert done[f"end-sessions {user}"]["ended_count"] == 2
    assert not {"invitation", "receipt"} & set().union(*done.values())
    assert await scene.chat.rows("SELECT count(*) FROM audit") == before
    assert await scene.chat.rows("SELECT count(*) FROM users WHERE is_locked OR is_deleted OR role = 'admin'") == [(0,)]
    assert await scene.chat.rows("SELECT count(*) FROM registration_tokens") == [(0,)]
    assert await scene.chat.rows("SELECT count(*) FROM devices WHERE NOT is_live") == [(0,)]


async def test_a_restarted_room_goes_on_and_the_log_names_it(scene: Scene) -> None:
    data_dir = scene.data_dir
    async with open_live_socket(scene.ann) as socket, open_live_socket(scene.bob) as bobs:
        await socket.send(scene.room.id, ciphertext_of(500), epoch=scene.room.epoch)
        await bobs.messages(1)
        actor = (await chatty_admin_json(data_dir, "rooms", "show", scene.room.id))["actor"]
        tried = await chatty_admin_json(data_dir, "actors", "restart", "--dry-run", actor)
        assert (tried["restart_count_before"], tried["is_dry_run"]) == (0, True)
        await chatty_admin_json(data_dir, "actors", "restart", "--yes", actor)
        await socket.send(scene.room.id, ciphertext_of(600), epoch=scene.room.epoch)
        await bobs.messages(1)
        shown = await chatty_admin_json(data_dir, "actors", "show", actor)
    assert (shown["restart_count"], shown["state"]) == (1, "running")
    assert "it was restarted 1 time; last error: none, it was asked to" in shown["reasons"]
    assert await scene.acts("actor.restarted") == [("actor.restarted", "", actor)]
    for words, code in ((["rooms/room 999999"], "not_found"), (["rooms"], "not_found"), (["console"], "bad_request")):
        refused = await chatty_admin(data_dir, "actors", "restart", "--yes", *words)
        assert (refused.exit_code, refused.stderr.split(":")[0]) == (1, f"error {code}")
    assert len(await scene.acts("actor.restarted")) == 1


async def test_the_journal_restarted_in_the_middle_of_traffic_loses_nothing(scene: Scene) -> None:
    async with open_live_socket(scene.ann) as socket:
        sent: list[int] = []
        async with trio.open_nursery() as nursery:

            async def restart() -> None:
                for _ in range(3):
                    await chatty_admin_json(scene.data_dir, "actors", "restart", "--yes", "journal/group")

            nursery.start_soon(restart)
            for size in range(500, 540):
                ack = await socket.send(scene.room.id, ciphertext_of(size), epoch=scene.room.epoch)
                sent.append(ack.seq)
    assert sent == sorted(set(sent))
    assert len(await scene.acts("actor.restarted")) == 3
    [(count,)] = await scene.chat.rows("SELECT count(*) FROM timeline WHERE kind = 'message'")
    assert count == 40


async def test_without_a_server_the_same_is_done_in_the_database(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path) as chat:
        ann = await chat.sign_up("ann")
        room = await ann.create_room()
    data_dir, url = chat.settings.data_dir, as_url(database)
    [session] = (await chatty_admin_json(data_dir, "sessions", "list", CHATTY_DATABASE_URL=url))["sessions"]
    assert (session["device"], session["is_connected"]) == (ann.device, None)
    shown = await chatty_admin_json(data_dir, "rooms", "show", room.id, CHATTY_DATABASE_URL=url)
    assert shown["members_count"] == 1
    assert (await chatty_admin_json(data_dir, "users", "storage", CHATTY_DATABASE_URL=url))["users_count"] == 1
    tried = await chatty_admin_json(data_dir, "devices", "revoke", "--dry-run", ann.device, CHATTY_DATABASE_URL=url)
    assert (tried["user"], tried["is_dry_run"]) == (ann.user, True)
    await chatty_admin_json(data_dir, "devices", "revoke", "--yes", ann.device, CHATTY_DATABASE_URL=url)
    assert (await chatty_admin_json(data_dir, "devices", "list", CHATTY_DATABASE_URL=url))["devices"] == []
    needs_server = await chatty_admin(data_dir, "actors", "restart", "--yes", "journal/group", CHATTY_DATABASE_URL=url)
    assert (needs_server.exit_code, needs_server.stderr.splitlines()[-1]) == (3, "next: chatty up")
