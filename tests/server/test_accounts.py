"""Registration, log-in, tokens and log-out over HTTP."""

import re
import secrets
from typing import Any

import pytest

from chatty.crypto import signatures
from chatty.crypto.tokens import SigningKey
from chatty.wire.canonical import decode_base64, encode_base64url
from tests.server.conftest import SERVER_NAME, RunningServer


async def test_a_new_account_can_read_itself(running: RunningServer) -> None:
    ann = running.person()
    answer = await ann.register()
    assert answer.status_code == 201
    assert answer.json()["user"] == f"@ann:{SERVER_NAME}"
    account = (await ann.ask("GET", "/v1/account")).json()
    assert (account["wrapped_recovery"], account["wrapped_identity"]) == ("AQID", "BAUG")


async def test_registration_leaves_an_audit_row_and_no_key_in_clear(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    assert await running.rows("SELECT action, actor FROM audit") == [("account.registered", ann.user)]
    public = decode_base64(signatures.public_key(ann.login_seed))
    [(sealed,)] = await running.rows("SELECT login_key_sealed FROM users")
    assert public not in bytes(sealed)
    assert running.store.keys.sealer.open(bytes(sealed), purpose=f"login_key/{ann.user}") == public


async def test_a_name_is_given_once(running: RunningServer) -> None:
    await running.person().register()
    answer = await running.person().register()
    assert (answer.status_code, answer.json()["code"]) == (409, "name_taken")


async def test_a_device_id_is_given_once_and_nothing_stays_of_the_refused_account(running: RunningServer) -> None:
    ann, bob = running.person("ann"), running.person("bob")
    await ann.register()
    answer = await bob.register(new_device={"device": ann.tokens["device"]})
    assert (answer.status_code, answer.json()["code"]) == (409, "device_id_taken")
    assert await running.rows("SELECT user_id FROM users") == [(ann.user,)]


@pytest.mark.parametrize("name", ["Ann", "ann smith", "", "a" * 65, "ann\n", "@ann"])
async def test_names_have_one_plain_form(running: RunningServer, name: str) -> None:
    answer = await running.person().register(name=name)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


@pytest.mark.parametrize("field", ["login_key", "identity_key"])
async def test_a_key_that_is_no_point_is_refused(running: RunningServer, field: str) -> None:
    answer = await running.person().register(**{field: "A" * 43})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_key")


async def test_registration_proves_the_login_key(running: RunningServer) -> None:
    other = signatures.public_key(secrets.token_bytes(32))
    answer = await running.person().register(login_key=other)
    assert (answer.status_code, answer.json()["code"]) == (401, "login_refused")


async def test_weak_key_derivation_cannot_be_registered(running: RunningServer) -> None:
    weak = {"algorithm": "argon2id", "memory_bytes": 8192, "passes": 1}
    answer = await running.person().register(key_derivation=weak)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


async def test_without_a_token_registration_is_closed(running_by_invitation: RunningServer) -> None:
    answer = await running_by_invitation.person().register()
    assert (answer.status_code, answer.json()["code"]) == (403, "registration_closed")


async def test_a_registration_token_works_as_often_as_it_says(running_by_invitation: RunningServer) -> None:
    running = running_by_invitation
    token = await running.invite(role="moderator")
    ann, bob = running.person("ann"), running.person("bob")
    assert (await ann.register(registration_token=token)).status_code == 201
    assert (await bob.register(registration_token=token)).json()["code"] == "registration_closed"
    assert await running.rows("SELECT user_id, role FROM users") == [(ann.user, "moderator")]


async def test_a_refused_registration_uses_up_no_token(running_by_invitation: RunningServer) -> None:
    running = running_by_invitation
    token = await running.invite(uses=2)
    await running.person("ann").register(registration_token=token)
    assert (await running.person("ann").register(registration_token=token)).json()["code"] == "name_taken"
    assert await running.rows("SELECT uses_left FROM registration_tokens") == [(1,)]


async def test_known_and_unknown_names_get_their_salts_alike(running: RunningServer) -> None:
    ann, nobody = running.person("ann"), running.person("nobody")
    before = (await running.http.post("/v1/salt", json={"user": ann.user})).json()
    await ann.register()
    known = (await running.http.post("/v1/salt", json={"user": ann.user})).json()
    unknown = (await running.http.post("/v1/salt", json={"user": nobody.user})).json()
    assert before["salt"] == known["salt"] != unknown["salt"]
    assert known.keys() == unknown.keys()
    assert known["key_derivation"] == unknown["key_derivation"]


async def test_each_login_makes_a_device(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    first = ann.tokens["device"]
    assert (await ann.log_in()).status_code == 201
    listed = (await ann.ask("GET", "/v1/devices")).json()["devices"]
    assert [device["device"] for device in listed] == [first, ann.tokens["device"]]
    assert [device["is_current"] for device in listed] == [False, True]


async def test_an_unknown_name_and_a_wrong_password_get_the_same_answer(running: RunningServer) -> None:
    ann, nobody = running.person("ann"), running.person("nobody")
    await ann.register()
    ann.login_seed = secrets.token_bytes(32)
    wrong, unknown = (await ann.log_in()).json(), (await nobody.log_in()).json()
    assert wrong.pop("request_id") != unknown.pop("request_id")
    assert wrong == unknown
    assert wrong["code"] == "login_refused"


async def test_a_login_statement_is_bound_to_all_that_the_log_in_does(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    body = await ann.login(new_device={"device": "DEVICEofann", "name": "laptop"})
    of_another_nonce = signatures.sign(ann.login_seed, ann.login_statement(body | {"nonce": "1.x"}))
    changes: list[dict[str, Any]] = [
        {"signature": of_another_nonce},
        {"signature": ann.sign(body["nonce"], "register")},
        {"signature": ann.sign(body["nonce"], "login")},
        {"dpop_thumbprint": "o" * 43},
        {"new_device": {"device": "DEVICEofeve", "name": "laptop"}},
        {"new_device": {"device": "DEVICEofann", "name": "phone"}},
        {"replaces": ann.tokens["device"]},
    ]
    for change in changes:
        answer = await running.http.post("/v1/login", json=body | change)
        assert answer.json()["code"] == "login_refused", change
    assert (await running.http.post("/v1/login", json=body)).status_code == 201


async def test_a_log_in_that_comes_again_makes_nothing(running: RunningServer) -> None:
    """By whoever saw it, within the life of its nonce: its device is there, and there for ever."""
    ann = running.person()
    await ann.register()
    replacing = await ann.login(replaces=ann.tokens["device"])
    assert (await running.http.post("/v1/login", json=replacing)).status_code == 201
    body = await ann.login()
    ann._keep(await running.http.post("/v1/login", json=body))
    kept = "SELECT device_id, is_live FROM devices ORDER BY device_number"
    before = await running.rows(kept)
    for again, code in ((body, "device_id_taken"), (replacing, "not_found")):
        assert (await running.http.post("/v1/login", json=again)).json()["code"] == code
    assert await running.rows(kept) == before
    assert (await ann.ask("DELETE", f"/v1/devices/{body['new_device']['device']}")).status_code == 200
    assert (await running.http.post("/v1/login", json=body)).json()["code"] == "device_id_taken"


async def test_a_nonce_lives_long_enough_to_find_a_phone_and_no_longer(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    nonce = await ann.nonce()
    running.clock.offset_s = 150
    assert (await ann.log_in(nonce=nonce)).status_code == 201
    running.clock.offset_s = 301
    answer = await ann.log_in(nonce=nonce)
    assert answer.json()["code"] == "login_refused"


async def test_a_forged_nonce_is_refused(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    slot = (await ann.nonce()).partition(".")[0]
    nonce = f"{slot}.{'A' * 43}"
    assert (await ann.log_in(nonce=nonce)).json()["code"] == "login_refused"


async def test_a_locked_account_signs_in_nowhere(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    async with running.pool.transaction() as connection:
        await connection.execute("UPDATE users SET is_locked = true")
    assert (await ann.log_in()).json()["code"] == "login_refused"
    assert (await ann.ask("GET", "/v1/account")).json()["code"] == "device_revoked"


async def test_a_refresh_gives_new_tokens_and_retires_the_old(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    first = ann.tokens["refresh_token"]
    second = (await ann.refresh(first)).json()["refresh_token"]
    assert second != first
    third = (await ann.refresh(second)).json()["refresh_token"]
    assert (await ann.refresh(first)).json()["code"] == "refresh_refused"
    assert (await ann.refresh(third)).status_code == 200, "a late copy of the old one revokes nothing"


async def test_refreshed_access_tokens_are_the_same_device(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    device = ann.tokens["device"]
    ann.tokens = (await ann.refresh(ann.tokens["refresh_token"])).json()
    listed = (await ann.ask("GET", "/v1/devices")).json()["devices"]
    assert [(one["device"], one["is_current"]) for one in listed] == [(device, True)]


@pytest.mark.parametrize("part", [1, 2, 3])
async def test_a_refresh_token_altered_anywhere_is_refused(running: RunningServer, part: int) -> None:
    ann = running.person()
    await ann.register()
    parts = ann.tokens["refresh_token"].split(".")
    parts[part] = {1: "A" * 22, 2: "2", 3: "A" * 43}[part]
    assert (await ann.refresh(".".join(parts))).json()["code"] == "refresh_refused"
    assert (await ann.refresh(ann.tokens["refresh_token"])).status_code == 200


@pytest.mark.parametrize("column", ["refreshed_at", "created_at"])
async def test_a_log_in_session_ends_by_itself(running: RunningServer, column: str) -> None:
    ann = running.person()
    await ann.register()
    async with running.pool.transaction() as connection:
        statement = f"UPDATE refresh_families SET {column} = now() - interval '1 day'"
        await connection.execute(statement.encode())
    assert (await ann.refresh(ann.tokens["refresh_token"])).json()["code"] == "refresh_refused"


async def test_an_expired_access_token_says_so(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    running.clock.offset_s = 601
    answer = await ann.ask("GET", "/v1/account")
    assert (answer.status_code, answer.json()["code"]) == (401, "token_expired")


async def test_logout_ends_both_tokens_and_the_device(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    assert (await ann.ask("POST", "/v1/logout", json={})).status_code == 200
    assert (await ann.ask("GET", "/v1/account")).json()["code"] == "device_revoked"
    assert (await ann.refresh(ann.tokens["refresh_token"])).json()["code"] == "refresh_refused"
    assert await running.rows("SELECT is_live FROM device_send") == [(False,)]


async def test_tokens_of_another_server_key_are_refused(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    header, payload, _ = ann.tokens["access_token"].split(".")
    forged = SigningKey(secrets.token_bytes(32)).sign(f"{header}.{payload}".encode())
    ann.tokens["access_token"] = f"{header}.{payload}.{encode_base64url(forged)}"
    assert (await ann.ask("GET", "/v1/account")).json()["code"] == "unauthenticated"


async def test_the_servers_keys_verify_its_tokens(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    key, _ = (await running.http.get("/v1/jwks")).json()["keys"]
    assert key["kid"] == running.store.keys.signing.signing(now_s=running.clock()).key_id
    assert (key["kty"], key["crv"], key["alg"]) == ("OKP", "Ed25519", "EdDSA")
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", key["x"])


async def test_the_server_says_who_it_is(running: RunningServer) -> None:
    info = (await running.http.get("/v1/server")).json()
    assert (info["server_name"], info["registration"], info["generation"]["number"]) == (SERVER_NAME, "open", 1)
    assert info["key_derivation"][0]["memory_bytes"] >= 64 * 2**20
