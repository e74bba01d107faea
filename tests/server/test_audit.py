"""The audit log from outside: what acts leave in it over HTTP, that it is sealed, and what the console says of it offline."""

import json
import re
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click.testing
import psycopg
import pytest
import trio

from chatty.admin import main
from chatty.services.audit import EraseAddresses, erasure_lead_s
from chatty.services.permissions import ROLES
from chatty.store.audit_heads import heads_path, read_heads
from chatty.store.pool import open_pool
from chatty.store.units import PostgresUnitOfWork
from tests.people import Person
from tests.server.app_fixtures import RunningApp, chat_settings, open_chat
from tests.server.wire_people import ORIGIN, SERVER_NAME

SEALED = "SELECT count(*) FROM audit_seals"
UNSEALED = "SELECT count(*) FROM audit WHERE NOT is_sealed"
ADDRESS = "127.0.0.1"
pytestmark = pytest.mark.usefixtures("logging_as_before")


class Log:
    """The log of a server that is down: its database, and the console beside it."""

    def __init__(self, database: str, data_dir: Path) -> None:
        self.database = database
        self.data_dir = data_dir

    async def admin(self, *words: str) -> click.testing.Result:
        runner = click.testing.CliRunner(
            env={"NO_COLOR": "1", "COLUMNS": "200", "CHATTY_DATABASE_URL": as_url(self.database)}
        )
        return await trio.to_thread.run_sync(
            partial(runner.invoke, main, ["--data-dir", str(self.data_dir), "audit", *words])
        )

    async def verify(self, *words: str) -> dict[str, Any]:
        """The verifier's answer; its exit code is in accord with it."""
        result = await self.admin("verify", "--json", *words)
        assert result.exit_code in (0, 1), result.output
        answer: dict[str, Any] = json.loads(result.stdout)
        assert answer["is_intact"] == (result.exit_code == 0)
        return answer

    async def change(self, *statements: str) -> None:
        """As somebody with the database's password would."""

        def act() -> None:
            with psycopg.connect(self.database) as connection:
                for statement in statements:
                    assert connection.execute(statement.encode()).rowcount != 0

        await trio.to_thread.run_sync(act)


def as_url(database: str) -> str:
    parts = {key: value for key, value in psycopg.conninfo.conninfo_to_dict(database).items() if value}
    name = parts.pop("dbname")
    return f"postgresql:///{name}?{urlencode(parts)}"


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(10):
        while not await condition():  # noqa: ASYNC110  # the database has nothing to wait on
            await trio.sleep(0.02)


async def until_sealed(chat: RunningApp) -> None:
    async def is_sealed() -> bool:
        return (await chat.rows(UNSEALED)) == [(0,)] and (await chat.rows(SEALED)) != [(0,)]

    await until(is_sealed)


async def live_a_little(chat: RunningApp) -> None:
    """A day in short: 12 acts of three people."""
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob, cid)
    await room.kick(ann, bob)
    for _ in range(3):
        assert (await ann.person.log_in()).status_code == 201
    await until_sealed(chat)


@pytest.fixture
async def log(database: str, tmp_path: Path) -> Log:
    """What a short day left; the server is down."""
    async with open_chat(database, tmp_path) as chat:
        await live_a_little(chat)
    return Log(database, chat_settings(tmp_path).data_dir)


def found(answer: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    return [(one["finding"], one["position"], one["upto"]) for one in answer["findings"]]


# What acts leave ----------------------------------------------------------------------------------------------------


async def test_an_act_tells_who_from_where_in_which_session_and_what_was_before_and_after(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    await room.kick(ann, bob)
    [(family,)] = await chat.rows(
        "SELECT family_id FROM refresh_families JOIN devices USING (device_number) WHERE device_id = %s", ann.device
    )
    [row] = await chat.rows(
        """SELECT actor, device, family, object, detail, before, after, address, length(request_id) > 0
        FROM audit WHERE action = 'room.kick'"""
    )
    assert row == (
        ann.user,
        ann.device,
        family,
        room.id,
        {"target": bob.user},
        {"standing": "joined", "role": "member"},
        {"standing": "left", "role": "member"},
        ADDRESS,
        True,
    )


async def test_a_log_in_names_the_session_that_it_starts(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    await ann.person.log_in()
    families = await chat.rows("SELECT family_id FROM refresh_families ORDER BY created_at")
    rows = await chat.rows(
        "SELECT family FROM audit WHERE action IN ('account.registered', 'session.started') ORDER BY audit_id"
    )
    assert rows == families
    assert len(set(rows)) == 2


async def test_a_refused_act_leaves_no_row(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    before = await chat.rows("SELECT count(*) FROM audit")
    assert (await bob.answer("DELETE", f"/v1/devices/{ann.device}")).status_code == 404
    assert (await ann.person.log_in(signature="A" * 86)).status_code == 401
    assert await chat.rows("SELECT count(*) FROM audit") == before


async def test_addresses_stand_beside_the_chain_not_in_it(chat: RunningApp) -> None:
    await chat.sign_up_all("ann", "bob")
    rows = await chat.rows("SELECT address, octet_length(address_salt), address_hash FROM audit")
    assert {row[:2] for row in rows} == {(ADDRESS, 16)}
    assert len({bytes(row[2]) for row in rows}) == len(rows)  # salted each for itself


async def test_every_row_is_sealed_within_a_second(chat: RunningApp) -> None:
    await until_first_head(chat)
    for name in ("ann", "bob", "cid"):
        await chat.sign_up(name)
        with trio.fail_after(1.5):  # 1 s, and the time of this look
            await until_sealed(chat)


async def until_first_head(chat: RunningApp) -> None:
    async def is_there() -> bool:
        return await chat.rows("SELECT 1 FROM audit_heads LIMIT 1") == [(1,)]

    await until(is_there)


# Verified offline ---------------------------------------------------------------------------------------------------


async def test_the_verifier_accepts_the_real_log(log: Log) -> None:
    answer = await log.verify()
    assert (answer["findings"], answer["unsealed_count"], answer["trust"]) == ([], 0, ["master_key", "carried_heads"])
    assert answer["sealed_count"] == answer["newest_head"]["position"] >= 10


async def test_a_changed_row_is_found(log: Log) -> None:
    await log.change(
        "UPDATE audit SET object = '@eve:localhost' WHERE audit_id = (SELECT audit_id FROM audit_seals WHERE position = 5)"
    )
    assert found(await log.verify()) == [("row_changed", 5, None)]


async def test_a_removed_row_is_found(log: Log) -> None:
    await log.change("DELETE FROM audit WHERE audit_id = (SELECT audit_id FROM audit_seals WHERE position = 5)")
    assert found(await log.verify()) == [("row_removed", 5, 5)]


async def test_a_row_removed_with_its_seal_is_found(log: Log) -> None:
    await log.change(
        "DELETE FROM audit WHERE audit_id IN (SELECT audit_id FROM audit_seals WHERE position IN (5, 6))",
        "DELETE FROM audit_seals WHERE position IN (5, 6)",
    )
    assert found(await log.verify()) == [("row_removed", 5, 6)]


async def test_a_reordered_pair_is_found_whichever_table_was_altered(log: Log) -> None:
    swap = [("rows_reordered", 4, 7), ("rows_reordered", 7, 4)]
    by_position = [
        "UPDATE audit_seals SET position = -4 WHERE position = 4",
        "UPDATE audit_seals SET position = 4 WHERE position = 7",
        "UPDATE audit_seals SET position = 7 WHERE position = -4",
    ]
    await log.change(*by_position)
    assert found(await log.verify()) == swap
    await log.change(*by_position)  # and back
    assert found(await log.verify()) == []
    await log.change(
        """UPDATE audit_seals s SET audit_id = -o.audit_id FROM audit_seals o
        WHERE (s.position, o.position) IN ((4, 7), (7, 4))""",
        "UPDATE audit_seals SET audit_id = -audit_id WHERE audit_id < 0",
    )
    assert found(await log.verify()) == swap


CUT = (
    "DELETE FROM audit_heads WHERE position > 6",
    "DELETE FROM audit WHERE audit_id IN (SELECT audit_id FROM audit_seals WHERE position > 6)",
    "DELETE FROM audit_seals WHERE position > 6",
)


async def cut_at_a_head(log: Log) -> int:
    """A tail without a trace: rows, seals and heads. Returns where the log ends now."""
    [(position,)] = await rows(
        log, "SELECT max(position) FROM audit_heads WHERE position < (SELECT max(position) FROM audit_heads)"
    )
    await log.change(*(statement.replace("> 6", f"> {position}") for statement in CUT))
    return int(position)


async def rows(log: Log, sql: str) -> list[tuple[Any, ...]]:
    def look() -> list[tuple[Any, ...]]:
        with psycopg.connect(log.database) as connection:
            return connection.execute(sql.encode()).fetchall()

    return await trio.to_thread.run_sync(look)


async def test_a_truncated_tail_is_found_by_a_head_that_was_carried_away(log: Log, tmp_path: Path) -> None:
    carried = tmp_path / "elsewhere"
    carried.write_text((await log.admin("export-head")).stdout)
    heads_path(log.data_dir).unlink()
    last = (await log.verify())["newest_head"]["position"]
    end = await cut_at_a_head(log)
    assert found(await log.verify()) == []  # nothing inside the log can tell
    answer = await log.verify("--head", str(carried))
    assert found(answer) == [("tail_truncated", last, end)]


async def test_the_data_directorys_own_heads_are_believed_where_no_others_are_given(log: Log) -> None:
    last = (await log.verify())["newest_head"]["position"]
    end = await cut_at_a_head(log)
    assert found(await log.verify()) == [("tail_truncated", last, end)]


async def test_a_tail_cut_off_and_sealed_anew_is_found(log: Log, tmp_path: Path) -> None:
    """By a server that has the key: only the carried head knows better."""
    carried = tmp_path / "elsewhere"
    heads_path(log.data_dir).rename(carried)
    await cut_at_a_head(log)
    async with open_chat(log.database, tmp_path) as chat:
        await chat.sign_up_all("dan", "eve", "fay", "gil", "hal")
        await until_sealed(chat)
    assert found(await log.verify()) == []
    assert {one[0] for one in found(await log.verify("--head", str(carried)))} == {"history_rewritten"}


async def test_rows_whose_seals_were_cut_off_say_so_themselves(log: Log) -> None:
    heads_path(log.data_dir).unlink()
    await log.change(CUT[0], "DELETE FROM audit_seals WHERE position > 6")
    assert "row_unchained" in {one[0] for one in found(await log.verify())}


async def test_a_forged_head_is_found_and_nothing_is_built_on_it(log: Log, tmp_path: Path) -> None:
    await log.change(
        "UPDATE audit_heads SET head = sha256(head) WHERE head_number = (SELECT max(head_number) FROM audit_heads)"
    )
    assert "head_forged" in {one[0] for one in found(await log.verify())}
    async with open_chat(log.database, tmp_path) as chat:
        await chat.sign_up("dan")
        with trio.move_on_after(1):
            await until_sealed(chat)
        assert await chat.rows(UNSEALED) != [(0,)]


async def test_unsealed_rows_are_shown_as_such_and_are_no_finding(log: Log) -> None:
    await log.change(
        """INSERT INTO audit (actor, device, action, object, detail, request_id)
        VALUES ('@ann:localhost', '', 'session.started', '@ann:localhost', '{}', '')"""
    )
    answer = await log.verify()
    assert (answer["findings"], answer["unsealed_count"]) == ([], 1)
    [row] = answer["unsealed"]
    assert (row["actor"], row["action"]) == ("@ann:localhost", "session.started")
    listed = json.loads((await log.admin("list", "--json", "--count-max", "1")).stdout)["rows"]
    assert [one["position"] for one in listed] == [None]
    assert "unsealed" in (await log.admin("list", "--count-max", "1")).stdout


async def test_an_archive_verifies_where_there_is_no_database(log: Log, tmp_path: Path) -> None:
    archive, carried = tmp_path / "log.jsonl", tmp_path / "elsewhere"
    carried.write_text((await log.admin("export-head")).stdout)
    exported = await log.admin("export", "--json", str(archive))
    assert json.loads(exported.stdout)["sealed_count"] >= 10
    assert archive.stat().st_mode & 0o077 == 0
    assert ADDRESS not in archive.read_text()
    nowhere = Log(log.database, tmp_path / "nowhere")
    answer = await nowhere.verify("--archive", str(archive), "--head", str(carried))
    assert (answer["findings"], answer["trust"], answer["source"]) == ([], ["carried_heads"], "archive")
    lines = archive.read_text().splitlines(keepends=True)
    fifth = next(number for number, line in enumerate(lines) if '"position":5,' in line)
    archive.write_text("".join(lines).replace(lines[fifth], lines[fifth].replace("@", "@x", 1)))
    assert found(await nowhere.verify("--archive", str(archive), "--head", str(carried))) == [("row_changed", 5, None)]
    archive.write_text("".join(lines[:fifth]))
    findings = found(await nowhere.verify("--archive", str(archive), "--head", str(carried)))
    assert findings[-1][0] == "tail_truncated"


async def test_an_archive_never_overwrites_a_file_and_no_file_is_left_half_written(log: Log, tmp_path: Path) -> None:
    archive = tmp_path / "log.jsonl"
    archive.write_text("mine")
    refused = await log.admin("export", str(archive))
    assert (refused.exit_code, archive.read_text()) == (1, "mine")
    assert "audit_file_unusable" in refused.stderr
    assert (await log.admin("verify", "--archive", str(archive))).exit_code == 1


async def test_the_log_is_searched_by_who_what_and_where(log: Log) -> None:
    async def listed(*words: str) -> list[str]:
        return [row["action"] for row in json.loads((await log.admin("list", "--json", *words)).stdout)["rows"]]

    assert set(await listed("--action", "session")) == {"session.started"}
    assert await listed("--action", "sess") == []
    assert await listed("--actor", "@cid:localhost") == ["device.keys_published", "account.registered"]
    assert "room.kick" in await listed("--address", ADDRESS)
    assert await listed("--until", "2020-01-01") == []
    assert await listed("--since", "2020-01-01T00:00", "--count-max", "2") == ["session.started"] * 2


async def test_auditors_read_the_log_over_http(chat: RunningApp) -> None:
    auditor, ann, bob = await chat.sign_up_as("auditor"), await chat.sign_up("ann"), await chat.sign_up("bob")
    await ann.answer("PUT", f"/v1/devices/{ann.device}/name", {"name": "phone"})
    [named] = (await auditor.get(f"/v1/admin/audit?actor={ann.user}&action=device.renamed"))["rows"]
    row = named["row"]
    assert (row["actor"], row["action"], row["object"], named["address"]) == (
        ann.user,
        "device.renamed",
        ann.device,
        ADDRESS,
    )
    for wanted, count in (
        ("action=account", 3),
        (f"object={bob.user}", 1),
        (f"family={row['family']}", 3),
        (f"request_id={row['request_id']}", 1),
        ("address=203.0.113.9", 0),
        (f"since={row['time_us'] // 1_000 + 1}&actor={ann.user}", 0),
        (f"until={row['time_us'] // 1_000 - 1}&action=device.renamed", 0),
        ("until=253402300799999&action=device.renamed", 1),
    ):
        assert len((await auditor.get(f"/v1/admin/audit?{wanted}"))["rows"]) == count, wanted
    pages, before = [], 0
    while True:
        page = await auditor.get(f"/v1/admin/audit?limit=4&before={before}")
        pages.append([one["audit_id"] for one in page["rows"]])
        before = page["next_before"]
        if not before:
            break
    newest_first = await chat.rows("SELECT audit_id FROM audit ORDER BY audit_id DESC")
    assert [one for page in pages for one in page] == [audit_id for (audit_id,) in newest_first]
    assert {len(page) for page in pages[:-1]} == {4}


async def test_nobody_else_reads_it(chat: RunningApp) -> None:
    found = {role: (await (await chat.sign_up_as(role)).answer("GET", "/v1/admin/audit")).status_code for role in ROLES}
    assert {role for role, status in found.items() if status == 200} == {"owner", "auditor"}
    assert set(found.values()) == {200, 403}


async def test_addresses_are_erased_in_time_and_the_chain_still_verifies(log: Log) -> None:
    """The day has come: the job's own step, on the real log."""
    async with open_pool(log.database) as pool:
        erase = EraseAddresses(units=PostgresUnitOfWork(pool), retention_days=erasure_lead_s / 86_400)
        assert not await erase.step()
    assert await rows(log, "SELECT 1 FROM audit WHERE address IS NOT NULL OR address_salt IS NOT NULL") == []
    answer = await log.verify()
    assert (answer["findings"], answer["sealed_count"] > 9) == ([], True)


async def test_addresses_of_yesterday_are_kept(log: Log) -> None:
    async with open_pool(log.database) as pool:
        await EraseAddresses(units=PostgresUnitOfWork(pool), retention_days=1).step()
    assert await rows(log, "SELECT DISTINCT address FROM audit") == [(ADDRESS,)]


# While it runs ------------------------------------------------------------------------------------------------------


async def test_readiness_warns_of_rows_that_wait_too_long_and_does_not_fail(log: Log, tmp_path: Path) -> None:
    await log.change(
        "UPDATE audit_heads SET signature = key WHERE head_number = (SELECT max(head_number) FROM audit_heads)"
    )
    await log.change(
        """INSERT INTO audit (time, actor, device, action, object, detail, request_id)
        VALUES (now() - interval '11 s', '', '', 'test.made', '', '{}', '')"""
    )
    async with open_chat(log.database, tmp_path) as chat:
        answer = await chat.http.get("/readyz")
        assert answer.status_code == 200
        [check] = [one for one in answer.json()["checks"] if one["name"] == "audit"]
        assert check["is_ready"]
        found = re.search(r"unsealed row is (\d+) s old", check["warning"])
        assert found is not None
        assert 11 <= int(found[1]) < 60


async def test_an_empty_head_is_signed_again_and_again(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, audit_head_interval_s=0.1) as chat:

        async def are_many() -> bool:
            return (await chat.rows("SELECT count(*) >= 3 FROM audit_heads")) == [(True,)]

        await until(are_many)
        assert await chat.rows("SELECT DISTINCT position FROM audit_heads") == [(0,)]
    heads = read_heads(heads_path(chat.settings.data_dir))
    assert [head.position for head in heads] == [0] * len(heads)
    assert (await Log(database, chat.settings.data_dir).verify())["is_intact"]


async def post_alone(origin: str, path: str, body: dict[str, Any]) -> int:
    """The status of one request on a connection of its own: a pool of 2,000 would measure the pool."""
    host, port = origin.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(head.encode() + content)
        answer = b"".join([part async for part in stream])
    return int(answer.split(b" ", 2)[1])


@pytest.mark.long
async def test_many_parallel_log_ins_lose_nothing(
    database: str, tmp_path: Path, counts: Callable[[int, int], int]
) -> None:
    """Every one of them gets through and has its row; the sealer works beside them."""
    count, answers = counts(40, 2_000), []
    limits = ("requests_address", "logins_address", "registrations_address", "registrations_server")
    generous: dict[str, Any] = {f"limit_{name}": "100000 per second" for name in limits}
    generous |= {"pool_waiting_max": count, "pool_wait_timeout_s": 120}
    async with open_chat(database, tmp_path, **generous) as chat:
        people = [Person(http=chat.http, name=f"p{n}", server_name=SERVER_NAME, origin=ORIGIN) for n in range(count)]
        for person in people:
            assert (await person.register()).status_code == 201
        bodies = [await person.login() for person in people]

        async def log_in(body: dict[str, Any]) -> None:
            answers.append(await post_alone(chat.origin, "/v1/login", body))

        async with trio.open_nursery() as nursery:
            for body in bodies:
                nursery.start_soon(log_in, body)
        assert answers == [201] * count
        assert await chat.rows("SELECT count(DISTINCT actor) FROM audit WHERE action = 'session.started'") == [(count,)]
        await until_sealed(chat)
    answer = await Log(database, chat.settings.data_dir).verify()
    assert (answer["findings"], answer["sealed_count"]) == ([], 2 * count)
