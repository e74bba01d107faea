"""Changing the password over HTTP: one request, signed by the old and the new key, that swaps everything or nothing."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from chatty.crypto import signatures
from chatty.wire.accounts import KeyDerivation
from chatty.wire.canonical import decode_base64
from chatty.wire.signing import password_digest
from tests.people import Person
from tests.server.conftest import RunningServer, open_server

DERIVATIONS = "67108864/3, 134217728/4"
STRONGER = {"algorithm": "argon2id", "memory_bytes": 134_217_728, "passes": 4}
_AGE = "UPDATE refresh_families SET stepped_up_at = now() - interval '11 minutes'"


@pytest.fixture
async def running(database: str, tmp_path: Path) -> AsyncIterator[RunningServer]:
    async with open_server(database, tmp_path, key_derivations=DERIVATIONS) as running:
        yield running


async def body_of(
    person: Person,
    new_seed: bytes,
    *,
    key_derivation: dict[str, Any] = STRONGER,
    wrapped_recovery: bytes = b"wrapped anew",
    end_other_sessions: bool = True,
    old_seed: bytes | None = None,
    purpose: str = "change_password",
) -> dict[str, Any]:
    nonce = await person.nonce()
    about = password_digest(
        login_key=signatures.public_key(new_seed),
        key_derivation=KeyDerivation(**key_derivation),
        wrapped_recovery=wrapped_recovery,
        end_other_sessions=end_other_sessions,
    )
    return {
        "login_key": signatures.public_key(new_seed),
        "key_derivation": key_derivation,
        "wrapped_recovery": "d3JhcHBlZCBhbmV3",
        "end_other_sessions": end_other_sessions,
        "nonce": nonce,
        "signature": person.sign(nonce, purpose, about=about, seed=old_seed),
        "new_signature": person.sign(nonce, purpose, about=about, seed=new_seed),
    }


async def change(person: Person, new_seed: bytes, **how: Any) -> httpx.Response:
    return await person.ask("POST", "/v1/account/password", json=await body_of(person, new_seed, **how))


async def secrets_of(running: RunningServer) -> list[tuple[Any, ...]]:
    return await running.rows("SELECT login_key_sealed, wrapped_recovery, key_derivation FROM users")


async def test_the_new_password_opens_the_account_and_the_old_one_no_more(running: RunningServer) -> None:
    ann, new_seed = running.person(), secrets.token_bytes(32)
    await ann.register()
    assert (await change(ann, new_seed)).status_code == 200
    account = (await ann.ask("GET", "/v1/account")).json()
    assert (account["wrapped_recovery"], account["key_derivation"]) == ("d3JhcHBlZCBhbmV3", STRONGER)
    assert account["wrapped_identity"] == "BAUG"
    assert (await ann.log_in()).json()["code"] == "login_refused"
    ann.login_seed = new_seed
    assert (await ann.log_in()).status_code == 201


async def test_the_new_key_is_stored_sealed(running: RunningServer) -> None:
    ann, new_seed = running.person(), secrets.token_bytes(32)
    await ann.register()
    await change(ann, new_seed)
    public = decode_base64(signatures.public_key(new_seed))
    [(sealed, *_)] = await secrets_of(running)
    assert public not in bytes(sealed)
    assert running.store.keys.sealer.open(bytes(sealed), purpose=f"login_key/{ann.user}") == public


async def test_the_salt_stays_what_it_was(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    before = (await running.http.post("/v1/salt", json={"user": ann.user})).json()
    await change(ann, secrets.token_bytes(32))
    after = (await running.http.post("/v1/salt", json={"user": ann.user})).json()
    assert (after["salt"], after["key_derivation"]) == (before["salt"], before["key_derivation"])


async def test_other_log_in_sessions_end_and_all_devices_are_told(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    other, other_tokens = ann.tokens["device"], dict(ann.tokens)
    await ann.log_in()
    assert (await change(ann, secrets.token_bytes(32))).status_code == 200
    listed = (await ann.ask("GET", "/v1/devices")).json()["devices"]
    assert [one["device"] for one in listed] == [ann.tokens["device"]]
    [(number,)] = await running.rows("SELECT device_number FROM devices WHERE device_id = %s", other)
    assert [one.revoked for one in running.doorbells.heard if one.revoked] == [[number]]
    assert await running.rows("SELECT device_number FROM revocations") == [(number,)]
    events = (await ann.ask("GET", "/v1/stream")).json()["events"]
    assert events[-1]["content"] == {"what": "password_changed", "device": ann.tokens["device"]}
    ann.tokens = other_tokens
    assert (await ann.ask("GET", "/v1/account")).json()["code"] == "device_revoked"


async def test_other_log_in_sessions_may_stay(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    first = dict(ann.tokens)
    await ann.log_in()
    assert (await change(ann, secrets.token_bytes(32), end_other_sessions=False)).status_code == 200
    ann.tokens = first
    events = (await ann.ask("GET", "/v1/stream")).json()["events"]
    assert events[-1]["content"]["what"] == "password_changed"


async def test_it_is_in_the_audit_log_without_any_key(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    await ann.log_in()
    await change(ann, secrets.token_bytes(32))
    columns = "actor, device, object, detail, before, after"
    [row] = await running.rows(f"SELECT {columns} FROM audit WHERE action = 'account.password_changed'")
    weaker = {"algorithm": "argon2id", "memory_bytes": 67_108_864, "passes": 3}
    assert row == (ann.user, ann.tokens["device"], ann.user, {"ended_sessions_count": 1}, weaker, STRONGER)


@pytest.mark.parametrize(
    "field", ["login_key", "key_derivation", "wrapped_recovery", "end_other_sessions", "nonce", "signature"]
)
async def test_the_old_key_signs_all_that_is_changed(running: RunningServer, field: str) -> None:
    ann, new_seed = running.person(), secrets.token_bytes(32)
    await ann.register()
    before = await secrets_of(running)
    body = await body_of(ann, new_seed)
    body[field] = {
        "login_key": signatures.public_key(secrets.token_bytes(32)),
        "key_derivation": {"algorithm": "argon2id", "memory_bytes": 67_108_864, "passes": 3},
        "wrapped_recovery": "b3RoZXI=",
        "end_other_sessions": False,
        "nonce": (await ann.nonce())[:-1] + "_",
        "signature": body["new_signature"],
    }[field]
    answer = await ann.ask("POST", "/v1/account/password", json=body)
    assert (answer.status_code, answer.json()["code"]) == (401, "login_refused")
    assert await secrets_of(running) == before


async def test_a_signature_for_something_else_is_none(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    for purpose in ("login", "step_up", "register"):
        answer = await change(ann, secrets.token_bytes(32), purpose=purpose)
        assert answer.json()["code"] == "login_refused", purpose


async def test_a_nonce_lives_five_minutes_at_most(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    body = await body_of(ann, secrets.token_bytes(32))
    running.clock.offset_s = 301
    assert (await ann.ask("POST", "/v1/account/password", json=body)).json()["code"] == "login_refused"


async def test_the_new_key_proves_that_somebody_holds_it(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    before = await secrets_of(running)
    body = await body_of(ann, secrets.token_bytes(32))
    body["new_signature"] = body["signature"]
    answer = await ann.ask("POST", "/v1/account/password", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_signature")
    assert await secrets_of(running) == before


async def test_it_needs_a_step_up(running: RunningServer) -> None:
    ann, new_seed = running.person(), secrets.token_bytes(32)
    await ann.register()
    async with running.pool.transaction() as connection:
        await connection.execute(_AGE)
    answer = await change(ann, new_seed)
    assert (answer.status_code, answer.json()["code"]) == (403, "step_up_required")
    assert (await ann.step_up()).status_code == 200
    assert (await change(ann, new_seed)).status_code == 200


async def test_a_step_up_and_a_change_need_the_newest_password(running: RunningServer) -> None:
    ann, old_seed, new_seed = running.person(), secrets.token_bytes(32), secrets.token_bytes(32)
    ann.login_seed = old_seed
    await ann.register()
    await change(ann, new_seed)
    assert (await ann.step_up()).json()["code"] == "login_refused"
    assert (await change(ann, secrets.token_bytes(32))).json()["code"] == "login_refused"
    ann.login_seed = new_seed
    assert (await ann.step_up()).status_code == 200
    assert (await change(ann, secrets.token_bytes(32))).status_code == 200


async def test_the_old_password_again_is_refused(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    answer = await change(ann, ann.login_seed)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


async def test_only_a_derivation_that_the_server_names_is_taken(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    weak = {"algorithm": "argon2id", "memory_bytes": 8_192, "passes": 1}
    answer = await change(ann, secrets.token_bytes(32), key_derivation=weak)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


async def test_guesses_at_the_old_password_are_slowed_down(database: str, tmp_path: Path) -> None:
    async with open_server(database, tmp_path, key_derivations=DERIVATIONS, login_free_count=2) as running:
        ann = running.person()
        await ann.register()
        for expected in ("login_refused", "login_refused", "rate_limited"):
            answer = await change(ann, secrets.token_bytes(32), old_seed=secrets.token_bytes(32))
            assert answer.json()["code"] == expected


async def test_of_two_changes_at_once_one_wins_and_a_log_in_is_before_or_refused(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    seeds = [secrets.token_bytes(32) for _ in range(4)]
    bodies = [await body_of(ann, seed) for seed in seeds]
    codes: list[int] = []
    logged_in: list[int] = []

    async def ask(body: dict[str, Any]) -> None:
        codes.append((await ann.ask("POST", "/v1/account/password", json=body)).status_code)

    async def log_in() -> None:
        answer = await running.http.post("/v1/login", json=await ann.login())
        logged_in.append(answer.status_code)

    async with trio.open_nursery() as nursery:
        for body in bodies:
            nursery.start_soon(ask, body)
            nursery.start_soon(log_in)
    assert sorted(codes) == [200, 401, 401, 401]
    assert set(logged_in) <= {201, 401}
    assert len(await running.rows("SELECT 1 FROM devices WHERE is_live")) == 1
    assert len(await running.rows("SELECT 1 FROM audit WHERE action = 'account.password_changed'")) == 1
