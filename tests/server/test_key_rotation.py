"""Every kind of key gives way to the next while people go on, and no request fails; one is revoked, and that counts at once."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio
from msgspec.structs import replace

from chatty.crypto.sealing import load_master_key, sealing_version
from chatty.crypto.tokens import RefreshTokens, access_lifetime_s_max, overlap_margin_s
from chatty.errors import BadConfiguration, DataKeyUnknown, KeyChangeRefused, NotFound, StoreUnavailable, TokenExpired
from chatty.services.key_revocation import CONSEQUENCES
from chatty.services.rewrapping import STORES
from chatty.services.server_keys import KINDS, ServerKeys, open_server_keys, reload_pause_s
from chatty.services.units import Transactions
from chatty.telemetry import configure_logging
from chatty.wire import frames
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.commands import as_url, chatty_admin, chatty_admin_json
from tests.server.conftest import RunningServer
from tests.server.test_second_factors import careful
from tests.server.wire_client import UNPROVEN, ciphertext, open_live_socket
from tests.server.wire_people import WireDevice

pytestmark = pytest.mark.usefixtures("logging_as_before")
TURNING = [kind for kind in KINDS if kind != "salt"]
SIGNING_OVER_S = 60 + access_lifetime_s_max + 2 * overlap_margin_s


def key_id(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


# Under load ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def rotating(database: str, tmp_path: Path) -> AsyncIterator[RunningApp]:
    """A server whose keys take their turns after a second."""
    configure_logging("error")  # the commands of these tests answer on stdout
    async with open_chat(database, tmp_path, key_prepare_s=1, limit_registrations_address="off") as chat:
        yield chat


@pytest.mark.long
async def test_all_keys_rotate_while_people_send_refresh_and_log_in_and_no_request_fails(
    database: str, tmp_path: Path, counts: Callable[[int, int], int]
) -> None:
    async with rotating(database, tmp_path) as chat:
        people = await chat.sign_up_all(*[f"p{number}" for number in range(counts(6, 50))])
        before = key_id(people[0].access_token)
        admin = partial(chatty_admin_json, chat.settings.data_dir, CHATTY_DATABASE_URL=as_url(chat.database))
        seen: list[set[str]] = [set() for _ in people]
        rotated = trio.Event()
        async with trio.open_nursery() as nursery:
            for device, keys in zip(people, seen, strict=True):
                nursery.start_soon(live, device, keys, rotated)
            await until_all_have(seen, {before})
            answers = {kind: await admin("keys", "rotate", kind) for kind in TURNING}
            assert answers["data"]["is_finished"]
            replaced = await admin("keys", "rotate", "--master")
            await until_all_have(seen, {answers["signing"]["id"]})
            with trio.fail_after(30):
                while "prepared" in {one["state"] for one in (await admin("keys", "list"))["keys"]}:  # noqa: ASYNC110 # time
                    await trio.sleep(0.1)
            rotated.set()
        old, new = [await trio.Path(replaced[name]).read_text() for name in ("old_file", "file")]
        assert old != new
        states = {(one["kind"], one["version"]): one["state"] for one in (await admin("keys", "list"))["keys"]}
        assert {states[kind, 2] for kind in TURNING} == {"active"}
        assert {states[kind, 1] for kind in TURNING} == {"accepted"}
        versions = await chat.rows("SELECT login_key_sealed FROM users")
        assert {sealing_version(bytes(sealed)) for (sealed,) in versions} == {2}
        prepared = await chat.rows("SELECT detail ->> 'kind' FROM audit WHERE action = 'key.prepared'")
        assert sorted(kind for (kind,) in prepared) == sorted(TURNING)
        verdict = await chatty_admin_json(
            chat.settings.data_dir, "audit", "verify", CHATTY_DATABASE_URL=as_url(chat.database)
        )
        assert verdict["trust"] == ["master_key", "carried_heads"]


async def live(device: WireDevice, keys: set[str], rotated: trio.Event) -> None:
    """Any refusal is an error, and fails the test."""
    room = await device.create_room()
    async with open_live_socket(device) as socket:
        while not rotated.is_set():
            draft = socket.draft(room.id, ciphertext(), epoch=room.epoch)
            first, again = await socket.ask(draft), await socket.ask(replace(draft, id=socket.request_id()))
            assert isinstance(first, frames.Ack)
            assert isinstance(again, frames.Ack)
            assert first.seq == again.seq, "the same n is the same message"
            device.settle(draft.n)
            answer = await device.person.refresh(device.tokens["refresh_token"])
            assert answer.status_code == 200, answer.text
            device.tokens = answer.json()
            keys.add(key_id(device.access_token))
            await socket.ask(
                frames.Token(id=socket.request_id(), access_token=device.access_token, dpop_proof=UNPROVEN)
            )
            assert (await device.person.step_up()).is_success
            await device.get("/v1/account")
            await trio.sleep(0.2)


async def until_all_have(seen: list[set[str]], wanted: set[str]) -> None:
    with trio.fail_after(60):
        while not all(keys >= wanted for keys in seen):  # noqa: ASYNC110 # many tasks fill many sets
            await trio.sleep(0.05)


# One node's own view ------------------------------------------------------------------------------------------------


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


async def other_node(running: RunningServer, tmp_path: Path, units: Transactions[Any] | None = None) -> ServerKeys:
    path = tmp_path / "data" / "master.key"
    read = partial(trio.to_thread.run_sync, load_master_key, path)
    return await open_server_keys(
        units or running.store.units, read, turn=trio.Lock(), clock_s=running.clock, random=lambda count: b"o" * count
    )


@pytest.mark.parametrize("is_lost", [False, True])
async def test_many_who_show_unknown_keys_at_once_cost_one_read(
    running: RunningServer, tmp_path: Path, is_lost: bool
) -> None:
    units = CountedReads(running.store.units)
    keys = await other_node(running, tmp_path, units)
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


async def test_what_another_node_made_with_newer_keys_is_taken(running: RunningServer, tmp_path: Path) -> None:
    """This node has not read the keys since: it looks once more before it says no."""
    ann = running.person()
    await ann.register()
    rotation = running.steps.key_rotation
    made = {kind: await rotation.rotate(None, kind) for kind in ("signing", "refresh", "data")}
    other = await other_node(running, tmp_path)
    running.store.keys.stored = [one for one in running.store.keys.stored if one.version == 1]
    running.store.keys._take()
    running.clock.offset_s = 61
    await other.read()
    claims = jwt.decode(ann.tokens["access_token"], options={"verify_signature": False})
    key = other.signing.signing(now_s=running.clock())
    assert key.key_id == made["signing"].id
    headers = {"typ": "at+jwt", "kid": key.key_id}
    ann.tokens["access_token"] = jwt.encode(claims, key.private, "EdDSA", headers=headers)
    assert (await ann.ask("GET", "/v1/account")).status_code == 200
    running.store.keys._macs = {"refresh": other.refresh_keys()[1:], "nonce": other.nonce_keys()}
    newer = RefreshTokens(other.refresh_keys).make(claims["fam"], claims["k"])
    assert newer != ann.tokens["refresh_token"]
    running.clock.offset_s += reload_pause_s
    assert (await ann.refresh(newer)).status_code == 200
    sealed = other.sealer.seal(b"s", purpose="p")
    assert running.store.keys.sealer.open(sealed, purpose="p") == b"s"


async def test_a_secret_under_a_key_that_is_not_read_yet_may_be_asked_for_again(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    await running.execute("UPDATE users SET login_key_sealed = set_byte(login_key_sealed, 4, 2)")
    answer = await running.http.post("/v1/login", json=await ann.login())
    assert (answer.status_code, answer.json()["code"]) == (503, DataKeyUnknown.code)
    assert answer.headers["Retry-After"] == "1"


async def test_each_kind_takes_its_turns_and_leaves_what_must_stay(running: RunningServer, tmp_path: Path) -> None:
    rotation, keys = running.steps.key_rotation, running.store.keys
    assert {one.state for one in await rotation.listed()} == {"active"}
    salt = keys.salt_key
    assert not await rotation.step()
    assert len(await rotation.listed()) == 8
    await running.execute("UPDATE sealed_keys SET created_at = now() - interval '366 days'")
    await keys.read()
    for kind in TURNING:
        await rotation.step()
        assert [state(one, kind) for one in await rotation.listed() if one.kind == kind] == ["active", "prepared"]
    await rotation.step()
    assert len(await rotation.listed()) == 14, "a key that waits for its turn is not followed by another"
    running.clock.offset_s = 61
    while await rotation.step():
        pass
    assert {one.state for one in await rotation.listed() if one.version == 1} == {"accepted", "active"}
    running.clock.offset_s = 60 + access_lifetime_s_max + overlap_margin_s
    await rotation.step()
    signing = [one.version for one in await rotation.listed() if one.kind == "signing"]
    assert signing == [1, 2], "what it signed last may live still"
    running.clock.offset_s = SIGNING_OVER_S + 1
    await rotation.step()
    left = {(one.kind, one.version): one.state for one in await rotation.listed()}
    assert {name: left.get((name, 1)) for name in TURNING} == {
        "signing": None,
        "nonce": None,
        "refresh": "accepted",
        "data": "accepted",
        "checkpoint": "public",
        "audit": "public",
    }
    await running.execute("UPDATE key_rotations SET finished_at = now() - interval '2 days'")
    running.clock.offset_s = 10_000 + 61 + 2 * overlap_margin_s + 86_400
    await rotation.step()
    left = {(one.kind, one.version): one.state for one in await rotation.listed()}
    assert (left.get(("refresh", 1)), left.get(("data", 1))) == (None, None)
    assert (keys.salt_key, left["salt", 1]) == (salt, "active")
    other = await other_node(running, tmp_path)
    assert (other.salt_key, other.refresh_keys()) == (salt, keys.refresh_keys())
    retired = await running.rows("SELECT detail ->> 'kind' FROM audit WHERE action = 'key.retired'")
    assert sorted(kind for (kind,) in retired) == sorted(TURNING)


def state(one: Any, kind: str) -> str:
    assert one.kind == kind
    return str(one.state)


# Data keys ----------------------------------------------------------------------------------------------------------


async def test_every_sealed_column_is_sealed_anew_and_a_locked_row_later(
    running: RunningServer,
) -> None:
    careful_ann = await careful(running)
    await careful_ann.add_totp()
    ann, people = careful_ann.person, [running.person(f"p{number}") for number in range(4)]
    for person in people:
        assert (await person.register()).status_code == 201
    await running.execute(
        """INSERT INTO registration_requests (user_id, name_skeleton, login_key_sealed, key_derivation, identity_key,
wrapped_recovery, wrapped_identity) SELECT user_id, 'x', login_key_sealed, key_derivation, identity_key, wrapped_recovery,
wrapped_identity FROM users LIMIT 1"""
    )
    columns = await running.rows(
        "SELECT table_name FROM information_schema.columns WHERE column_name LIKE '%%_sealed' AND data_type = 'bytea'"
    )
    assert {name for (name,) in columns} == STORES.keys(), "one that rotation does not know is lost with its data key"
    rotation = running.steps.key_rotation
    await rotation.rotate(None, "data")
    running.clock.offset_s = 61
    await running.store.keys.read()
    async with running.pool.transaction() as holder:
        await holder.execute("SELECT 1 FROM users WHERE user_id = %s FOR NO KEY UPDATE", (ann.user,))
        while await rotation.step():
            pass
        assert not (await rotation.progress()).is_finished
        assert await old_versions(running) == {1}
    while await rotation.step() or not (await rotation.progress()).is_finished:
        pass
    assert await old_versions(running) == set()
    assert (await running.http.post("/v1/login", json=await ann.login())).json()["code"] == "second_factor_required"
    assert (await people[1].log_in()).status_code == 201
    [(count,)] = await running.rows("SELECT detail ->> 'rows_count' FROM audit WHERE action = 'key.rows_resealed'")
    assert count == "13", "6 keys, 5 users, a request, a TOTP secret"


async def old_versions(running: RunningServer) -> set[int]:
    sealed = await running.rows(
        "SELECT login_key_sealed FROM users UNION ALL SELECT login_key_sealed FROM registration_requests "
        "UNION ALL SELECT secret_sealed FROM totp_secrets"
    )
    return {version for (one,) in sealed if (version := sealing_version(bytes(one))) < 2}


async def test_what_a_late_process_sealed_under_the_old_key_is_found_before_the_key_goes(
    running: RunningServer, tmp_path: Path
) -> None:
    late = await other_node(running, tmp_path)
    ann = running.person()
    await ann.register()
    rotation = running.steps.key_rotation
    await rotation.rotate(None, "data")
    running.clock.offset_s = 61
    await running.store.keys.read()
    while await rotation.step():
        pass
    assert (await rotation.progress()).is_finished
    [(sealed,)] = await running.rows("SELECT login_key_sealed FROM users")
    opened = running.store.keys.sealer.open(bytes(sealed), purpose=f"login_key/{ann.user}")
    await running.execute(
        "UPDATE users SET login_key_sealed = %s", late.sealer.seal(opened, purpose=f"login_key/{ann.user}")
    )
    running.clock.offset_s = 61 + 86_401
    await running.execute("UPDATE key_rotations SET finished_at = now() - interval '2 days'")
    while await rotation.step() or not (await rotation.progress()).is_finished:
        pass
    assert [one.version for one in await rotation.listed() if one.kind == "data"] == [1, 2]
    await running.execute("UPDATE key_rotations SET finished_at = now() - interval '2 days'")
    await rotation.step()
    assert [one.version for one in await rotation.listed() if one.kind == "data"] == [2]
    assert (await ann.log_in()).status_code == 201


async def test_a_log_in_that_is_sealed_anew_in_the_middle_goes_on(running: RunningServer) -> None:
    """Between the look at the log-in key and the lock of its row."""
    ann = running.person()
    await ann.register()
    rotation = running.steps.key_rotation
    await rotation.rotate(None, "data")
    running.clock.offset_s = 61
    await running.store.keys.read()
    body = await ann.login()
    answers: list[int] = []

    async def log_in() -> None:
        answers.append((await running.http.post("/v1/login", json=body)).status_code)

    async with trio.open_nursery() as nursery, running.pool.transaction() as holder:
        await holder.execute("SELECT 1 FROM users FOR UPDATE")
        nursery.start_soon(log_in)
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        with trio.fail_after(20):
            while await running.rows(waiting) == [(0,)]:  # noqa: ASYNC110 # the database has nothing to wait on
                await trio.sleep(0.01)
        [(sealed,)] = await running.rows("SELECT login_key_sealed FROM users")
        sealer, purpose = running.store.keys.sealer, f"login_key/{ann.user}"
        anew = sealer.seal(sealer.open(bytes(sealed), purpose=purpose), purpose=purpose)
        await holder.execute("UPDATE users SET login_key_sealed = %s", (anew,))
    assert answers == [201]


# Revoking -----------------------------------------------------------------------------------------------------------


async def test_a_revoked_signing_key_ends_its_tokens_and_sockets_and_nobody_is_signed_out(
    database: str, tmp_path: Path
) -> None:
    configure_logging("error")
    async with open_chat(database, tmp_path) as chat:
        ann = await chat.sign_up("ann")
        key, directory = key_id(ann.access_token), chat.settings.data_dir
        dry = await chatty_admin_json(directory, "keys", "revoke", "signing", key, "--dry-run")
        assert dry["consequences"][: len(CONSEQUENCES["signing"])] == list(CONSEQUENCES["signing"])
        refused = await chatty_admin(directory, "keys", "revoke", "signing", key)
        assert refused.exit_code == 4
        assert CONSEQUENCES["signing"][0] in " ".join(refused.stderr.split())
        async with open_live_socket(ann) as socket:
            answer = await chatty_admin_json(directory, "keys", "revoke", "signing", key, "--yes")
            with trio.fail_after(10):
                assert (await socket.closed()).code == TokenExpired.close_code
        assert answer["active"]["id"] != key
        gone = await ann.person.ask("GET", "/v1/account")
        assert (gone.status_code, gone.json()["code"]) == (401, "token_expired")
        refreshed = await ann.person.refresh(ann.tokens["refresh_token"])
        assert refreshed.status_code == 200
        assert key_id(refreshed.json()["access_token"]) == answer["active"]["id"]
        again = await chatty_admin(directory, "keys", "revoke", "signing", key, "--yes")
        assert again.exit_code == 1
        assert "not_found" in again.stderr
        assert await chat.rows("SELECT object FROM audit WHERE action = 'key.revoked'") == [(key,)]


async def test_what_each_revocation_takes_away(running: RunningServer) -> None:
    rotation, revocation, keys = running.steps.key_rotation, running.steps.key_revocation, running.store.keys
    ann = running.person()
    await ann.register()
    with pytest.raises(KeyChangeRefused):
        await revocation.revoke(None, "salt", "1")
    with pytest.raises(NotFound):
        await revocation.revoke(None, "refresh", "7")
    told = await revocation.consequences("refresh", "1")
    assert told[0].startswith("Up to 1 log-in sessions")
    await revocation.revoke(None, "refresh", "1")
    assert (await ann.refresh(ann.tokens["refresh_token"])).json()["code"] == "refresh_refused"
    assert (await ann.log_in()).status_code == 201
    for kind in ("checkpoint", "audit"):
        waiting = await rotation.rotate(None, kind)
        active = next(one for one in await rotation.listed() if (one.kind, one.state) == (kind, "active"))
        now = await revocation.revoke(None, kind, active.id)
        assert (now.id, now.state) == (waiting.id, "active")
        assert [one.state for one in await rotation.listed() if one.kind == kind] == ["revoked", "active"]
    assert keys.checkpoint.key_id == [one for one in await rotation.listed() if one.kind == "checkpoint"][1].id
    await revocation.revoke(None, "data", "1")
    while await rotation.step():
        pass
    assert await old_versions(running) == set()
    await running.execute("UPDATE key_rotations SET finished_at = now() - interval '2 minutes'")
    running.clock.offset_s = 61
    await rotation.step()
    assert [one.version for one in await rotation.listed() if one.kind == "data"] == [2]
    assert (await ann.log_in()).status_code == 201


# The operator -------------------------------------------------------------------------------------------------------


async def test_the_commands_say_what_they_refuse_and_health_warns_of_old_keys(database: str, tmp_path: Path) -> None:
    configure_logging("error")
    async with open_chat(database, tmp_path, key_prepare_s=60) as chat:
        directory = chat.settings.data_dir
        tried = await chatty_admin_json(directory, "keys", "rotate", "--dry-run", "signing")
        first = await chatty_admin_json(directory, "keys", "rotate", "signing")
        assert (tried["id"], tried["version"], tried["state"], tried["is_dry_run"]) == ("-", 2, "prepared", True)
        assert (first["version"], tried["turn_in_s"]) == (2, pytest.approx(first["turn_in_s"], abs=30))
        waits = await chatty_admin_json(directory, "keys", "rotate", "--dry-run", "signing")
        assert (waits["id"], waits["version"]) == (first["id"], 2)
        again = await chatty_admin_json(directory, "keys", "rotate", "signing")
        assert (first["state"], again["id"]) == ("prepared", first["id"])
        assert (await chatty_admin(directory, "keys", "rotate")).exit_code == 2
        assert (await chatty_admin(directory, "keys", "rotate", "--master", "signing")).exit_code == 2
        assert (await chatty_admin(directory, "keys", "revoke", "salt", "1", "--yes")).exit_code == 1
        at_database = {"CHATTY_DATABASE_URL": as_url(chat.database)}
        fixed = await chatty_admin(directory, "keys", "rotate", "--master", CHATTY_MASTER_KEY="bQ" * 22, **at_database)
        assert fixed.exit_code == BadConfiguration.exit_code
        assert "CHATTY_MASTER_KEY_FILE" in fixed.stderr
        master = ("keys", "rotate", "--master", "--prepare")
        untried = await chatty_admin_json(directory, *master, "--dry-run", **at_database)
        assert (untried["is_dry_run"], (directory / "master.key.next").exists()) == (True, False)
        prepared = await chatty_admin_json(directory, *master, **at_database)
        assert (prepared["state"], prepared["file"]) == (untried["state"], untried["file"])
        for options in ([], ["--dry-run"]):
            refused = await chatty_admin(directory, "keys", "rotate", *options, "data")
            assert refused.exit_code == 1
            assert "key_change_refused" in refused.stderr
        await chat.execute("UPDATE sealed_keys SET created_at = now() - interval '800 days' WHERE purpose = 'data_key'")
        listed = await chatty_admin(directory, "keys", "list")
        assert "800 d" in listed.stdout
        assert "rotate data" in " ".join(listed.stdout.split())
        ready = (await chat.http.get("/readyz")).json()
        warning = next(check["warning"] for check in ready["checks"] if check["name"] == "keys")
        assert ready["is_ready"]
        assert "data key 1" in warning
        assert "rotate --master" in warning
        await chatty_admin_json(directory, "keys", "rotate", "--master", **at_database)
        file, beside = [trio.Path(directory / f"master.key{end}") for end in ("", ".next")]
        await chatty_admin_json(directory, "keys", "rotate", "--master", "--prepare", **at_database)
        await file.write_text(await beside.read_text())  # as on the other machines
        by_hand = await chatty_admin_json(directory, "keys", "rotate", "--master", **at_database)
        assert (by_hand["old_file"], await beside.exists()) == (None, False)
        used = await file.read_text()
        await beside.write_text(used)  # which older versions left there
        again = await chatty_admin_json(directory, "keys", "rotate", "--master", **at_database)
        assert await file.read_text() != used
        assert await trio.Path(again["old_file"]).read_text() == used
