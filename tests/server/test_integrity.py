"""The integrity check on a server's own data: nothing is found wrong, and each check finds what only it can."""

from collections.abc import AsyncIterator

import pytest
import trio

from chatty.services.integrity import CHAINS, CheckIntegrity, Page, begun, is_linked, turned
from chatty.store.integrity import CHECKS, PostgresIntegrity
from chatty.store.pool import Pool, open_pool
from chatty.store.units import PostgresUnitOfWork
from tests.server.app_fixtures import RunningApp
from tests.server.wire_client import ciphertext, open_live_socket
from tests.server.wire_people import sign_in

NOBODY = 999_999
BREAKS = {
    "device_send_without_device": f"INSERT INTO device_send (device_number) VALUES ({NOBODY})",
    "one_time_keys_without_device": f"INSERT INTO one_time_keys (device_number, key_id, key_hash) VALUES ({NOBODY}, 'x', '')",
    "fallback_keys_without_device": f"INSERT INTO fallback_keys VALUES ({NOBODY}, 'x', 'x', 'x')",
    "mailbox_without_device": f"""INSERT INTO mailbox (device_number, sender_device_number, n, kind, content)
VALUES ({NOBODY}, 1, 1, '', '')""",
    "requests_without_device": f"INSERT INTO requests (device_number, n, digest) VALUES ({NOBODY}, 1, '')",
    "devices_without_send_state": "DELETE FROM device_send",
    "user_stream_beyond_its_end": "UPDATE users SET stream_seq = 0",
    "blocks_without_user": f"INSERT INTO blocks SELECT user_number, {NOBODY} FROM users LIMIT 1",
    "members_without_room_or_user": f"""UPDATE members SET user_number = {NOBODY}
WHERE user_number = (SELECT min(user_number) FROM members)""",
    "intervals_without_member": "DELETE FROM members",
    "cursors_without_room_or_user": f"INSERT INTO read_cursors VALUES ({NOBODY}, 1, 1)",
    "links_without_room": f"INSERT INTO room_links VALUES ({NOBODY}, 'x', 1, 0, 1, 0, false)",
    "restorations_without_room": f"INSERT INTO room_restorations VALUES ({NOBODY}, 2, 1)",
    "owed_devices_without_room_or_user": f"INSERT INTO owed_devices VALUES ({NOBODY}, 1, 1)",
    "events_without_room_or_sender": f"UPDATE timeline SET sender_number = {NOBODY} WHERE kind = 'message'",
    "messages_without_ciphertext": "DELETE FROM bodies",
    "ciphertexts_without_event": f"INSERT INTO bodies VALUES ({NOBODY}, 1, 'x')",
    "passing_ciphertexts_without_event": f"INSERT INTO passing_bodies VALUES (9999999999999, {NOBODY}, 1, 'x')",
    "rooms_without_their_head": "UPDATE rooms SET head = 'x'",
    "audit_seals_without_row_or_predecessor": "DELETE FROM audit_seals WHERE position = 1",
    "audit_rows_without_seal": "DELETE FROM audit_seals",
    CHAINS: "UPDATE timeline SET time = time + 1 WHERE kind = 'message'",
}


class Undo(Exception):
    """Takes a break back."""


@pytest.fixture
async def pool(chat: RunningApp) -> AsyncIterator[Pool]:
    ann, bob = await chat.sign_up_all("ann", "bob")
    phone = await sign_in(ann, one_time_keys_count=2, with_fallback=True)
    room = await ann.create_room(bob)
    await room.make_link(ann)
    async with open_live_socket(bob) as socket:
        for _ in range(5):
            await socket.send(room.id, ciphertext(), epoch=room.epoch)
    await ann.send_to_devices(bob, phone)
    await ann.answer("PUT", f"/v1/blocks/{bob.user}")
    with trio.fail_after(10):
        while await chat.rows("SELECT 1 FROM audit WHERE NOT is_sealed"):
            await trio.lowlevel.checkpoint()
    async with open_pool(chat.database) as pool:
        yield pool


async def findings(integrity: PostgresIntegrity, check: str, *, page_rows: int = 1_000) -> int:
    """Of the whole table, however small the pages are."""
    if check == CHAINS:
        rooms = await integrity.rooms(after=0, count_max=10)
        links = [link for room, _ in rooms for link in await integrity.stretch(room, first=1, count_max=1_000)]
        assert len(links) > 5
        return sum(not is_linked(link) for link in links)
    count, now, is_over = 0, begun([check]), False
    while not is_over:
        page = await integrity.look(check, after=now.after, count_max=page_rows)
        count += len(page.wrong)
        now, is_over = turned(now, page, [check])
    return count


async def test_a_pass_finds_nothing_wrong_and_notes_how_far_it_is(pool: Pool) -> None:
    units, reported = PostgresUnitOfWork(pool), list[dict[str, int]]()
    job = CheckIntegrity(units=units, report=lambda found: reported.append(dict(found)))
    steps_count = 1
    while await job.step():
        steps_count += 1
        async with units.autocommit() as unit:
            assert (await unit.jobs.notes(job.name))["pass"]["rows_count"] >= 0
    assert steps_count >= len(CHECKS)
    assert reported[-1] == dict.fromkeys(BREAKS, 0)


async def test_each_check_finds_its_own(pool: Pool) -> None:
    assert BREAKS.keys() == {*(check.name for check in CHECKS), CHAINS}
    for check, statement in BREAKS.items():
        with pytest.raises(Undo):
            await break_and_look(pool, check, statement)


async def break_and_look(pool: Pool, check: str, statement: str) -> None:
    """Raises: Undo."""
    async with pool.transaction() as connection:
        integrity = PostgresIntegrity(connection)
        assert (check, await findings(integrity, check)) == (check, 0)
        await connection.execute(statement)
        count = await findings(integrity, check)
        assert count >= 1, check
        assert (check, await findings(integrity, check, page_rows=1)) == (check, count)
        raise Undo


def test_a_pass_keeps_the_first_examples_and_counts_all() -> None:
    checks, now = ["one", "two"], begun(["one", "two"])
    now, is_over = turned(now, Page(rows_count=8, wrong=[[n] for n in range(8)], last=[7]), checks)
    assert (now.check, now.after, is_over) == ("one", [7], False)
    now, is_over = turned(now, Page(rows_count=1, wrong=[[8]], last=None), checks)
    assert (now.check, now.after, is_over) == ("two", None, False)
    now, is_over = turned(now, Page(rows_count=0, wrong=[], last=None), checks)
    assert (now.found, now.examples, is_over) == ({"one": 9, "two": 0}, {"one": [[n] for n in range(5)]}, True)
