"""kill -9 of the process that rotates keys, again and again: the server goes on, and starts, and others finish the work."""

from pathlib import Path

import trio

from chatty.app.database import open_store
from chatty.app.process import Hooks
from chatty.crypto.sealing import sealing_version
from chatty.services.crash_points import NO_CRASH_POINTS
from chatty.services.server_keys import KINDS
from chatty.telemetry import Metrics
from tests.faults.key_rotation_program import replace, rotate
from tests.faults.standing_still import keep_away, kill_dead, standing_still
from tests.server.app_fixtures import RunningApp, chat_settings, open_chat
from tests.server.wire_client import ciphertext, open_live_socket

# At which of its crash points each process in turn is killed: six keys are prepared, then each row is sealed anew by itself.
KILLS = (2, 5, 4)
MASTER_POINTS = ("made", "wrapped", "wrapped", "replaced", "finished")


async def kill_at(database: str, data_dir: Path, what: str, count: int) -> str:
    """A process that rotates, killed at its count-th crash point. Returns what it said there."""
    program = standing_still("key_rotation_program", database, str(data_dir), what, str(count), timeout_s=60)
    async with program as (process, said):
        await kill_dead(process)
        return said.decode().strip()


async def starts(chat: RunningApp) -> int:
    """A server would start on what is there. Returns the version of the data key that it seals with."""
    settings = chat_settings(chat.settings.data_dir.parent)
    async with open_store(settings, chat.database, Metrics(), Hooks()) as store:
        return store.keys.sealer.version


async def test_a_killed_rotation_of_every_kind_is_finished_by_another_process(database: str, tmp_path: Path) -> None:
    await keep_away(database, "key_rotation")
    async with open_chat(database, tmp_path, key_prepare_s=1) as chat:
        ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
        room = await ann.create_room(bob, cid)
        await chat.execute("UPDATE sealed_keys SET created_at = now() - interval '400 days'")
        said = []
        async with open_live_socket(ann) as socket:
            for count in KILLS:
                said.append(await kill_at(database, chat.settings.data_dir, "job", count))
                await starts(chat)
                for device in (ann, bob, cid):
                    refreshed = await device.person.refresh(device.tokens["refresh_token"])
                    assert refreshed.status_code == 200, refreshed.text
                    device.tokens = refreshed.json()
                    assert (await device.person.step_up()).is_success
                await socket.send(room.id, ciphertext(), epoch=room.epoch)
        assert all(said)
        assert not await chat.rows("SELECT 1 FROM key_rotations WHERE finished_at IS NOT NULL")
        await rotate(chat.database, chat.settings.data_dir / "master.key", NO_CRASH_POINTS)
        versions = await chat.rows("SELECT purpose, array_agg(version ORDER BY version) FROM sealed_keys GROUP BY 1")
        assert dict(versions) == {f"{kind}_key": [1] if kind == "salt" else [1, 2] for kind in KINDS}
        sealed = await chat.rows("SELECT login_key_sealed FROM users")
        assert [sealing_version(bytes(one)) for (one,) in sealed] == [2, 2, 2]
        assert await starts(chat) == 2
        [(count,)] = await chat.rows("SELECT detail ->> 'rows_count' FROM audit WHERE action = 'key.rows_resealed'")
        assert 9 <= int(count) <= 14, (
            "each secret once: 3 of accounts, and of the server's own those that were made before"
        )


async def test_a_killed_replacement_of_the_master_key_leaves_a_server_that_starts(
    database: str, tmp_path: Path
) -> None:
    async with open_chat(database, tmp_path) as chat:
        ann, data_dir = await chat.sign_up("ann"), trio.Path(chat.settings.data_dir)
        replaced = []
        for count, place in enumerate(MASTER_POINTS, start=1):
            replaced.append(await (data_dir / "master.key").read_text())
            said = await kill_at(database, chat.settings.data_dir, "master", count)
            assert said.endswith(f"master_key {place}")
            assert await starts(chat) == 1
            await replace(chat.database, chat.settings.data_dir / "master.key", NO_CRASH_POINTS)
            assert (await ann.person.step_up()).is_success
        assert await starts(chat) == 1
        files = {path.name: await path.read_text() for path in await data_dir.glob("master.key*")}
        assert files.pop("master.key") not in replaced
        assert sorted(files.values()) == sorted(replaced), "each old one is kept once, and no other is left"
        assert await chat.rows("SELECT purpose FROM sealed_keys WHERE purpose = 'next_data_key'") == []
        acts = await chat.rows("SELECT action FROM audit WHERE action LIKE 'master_key.%%' ORDER BY audit_id")
        assert acts == [("master_key.prepared",), ("master_key.replaced",)] * len(MASTER_POINTS)
