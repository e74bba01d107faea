"""Second factors at a running server: TOTP, recovery codes, passkeys beside the password and alone; and who learns of them."""

import secrets
from base64 import b32decode, b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from structlog.testing import capture_logs

from chatty.crypto import totp
from chatty.wire.signing import passkey_challenge
from tests.people import Person, outcome
from tests.server.conftest import ORIGIN, RunningServer, open_server
from tests.software_authenticator import USER_PRESENT, Authenticator, text

RP_ID = "chatty.test"
_STALE = "UPDATE refresh_families SET stepped_up_at = now() - interval '1 hour'"
_AGES = "SELECT extract(epoch FROM now() - stepped_up_at)::int / 60 FROM refresh_families ORDER BY created_at"


@dataclass(kw_only=True)
class Careful:
    """Somebody with an account, and what may prove that it is theirs. secret: of the authenticator app."""

    server: RunningServer
    person: Person
    secret: bytes = b""
    recovery_codes: list[str] = field(default_factory=list)
    passkeys: list[Authenticator] = field(default_factory=list)

    async def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return await self.person.ask(method, path, **({} if body is None else {"json": body}))

    async def add_totp(self) -> None:
        new = (await self.ask("POST", "/v1/totp", {})).json()
        self.secret = b32decode(new["secret"])
        self._keep((await self.ask("POST", "/v1/totp/confirm", {"code": self.code()})).json())

    def code(self, step: int = 0) -> str:
        return totp.code(self.secret, totp.step_at(self.server.clock()) + step)

    def later_code(self) -> str:
        """Of a step that no code was taken of."""
        self.server.clock.offset_s += 60
        return self.code()

    async def new_passkey(self, authenticator: Authenticator | None = None, **changes: Any) -> httpx.Response:
        options = (await self.ask("GET", "/v1/passkeys/options")).json()
        authenticator = authenticator or Authenticator(rp_id=options["rp_id"], origin=ORIGIN)
        authenticator.user_handle = authenticator.user_handle or b64decode(options["user_handle"])
        challenge = passkey_challenge(self.person.statement(options["nonce"], "add_passkey"))
        body = {"nonce": options["nonce"], "name": "key", "transports": ["usb"], **authenticator.make(challenge)}
        self.passkeys.append(authenticator)
        return await self.ask("POST", "/v1/passkeys", {**body, **changes})

    async def add_passkey(self, authenticator: Authenticator | None = None) -> Authenticator:
        answer = await self.new_passkey(authenticator)
        assert answer.status_code == 201, answer.text
        self._keep(answer.json())
        return self.passkeys[-1]

    async def log_in(self, second_factor: Any = None, **changes: Any) -> httpx.Response:
        """second_factor: a passkey signs for this very log-in."""
        body = await self.person.login(**changes)
        if second_factor is not None:
            body["second_factor"] = self._shown(second_factor, self.person.login_statement(body))
        return await self.person.http.post("/v1/login", json=body)

    async def log_in_alone(self, by: Authenticator, **changes: Any) -> httpx.Response:
        body = await self.person.login()
        body["signature"] = by.sign(passkey_challenge(self.person.login_statement(body)))
        return await self.person.http.post("/v1/login", json=body | changes)

    async def step_up(self, second_factor: Any = None) -> httpx.Response:
        nonce = await self.person.nonce()
        body: dict[str, Any] = {"nonce": nonce, "signature": self.person.sign(nonce, "step_up")}
        if second_factor is not None:
            body["second_factor"] = self._shown(second_factor, self.person.statement(nonce, "step_up"))
        return await self.ask("POST", "/v1/step-up", body)

    async def step_up_alone(self, by: Authenticator) -> httpx.Response:
        nonce = await self.person.nonce()
        signed = by.sign(passkey_challenge(self.person.statement(nonce, "step_up")))
        return await self.ask("POST", "/v1/step-up", {"nonce": nonce, "signature": signed})

    def _shown(self, factor: Any, statement: bytes) -> Any:
        if isinstance(factor, Authenticator):
            return {"passkey": factor.sign(passkey_challenge(statement))}
        return factor

    def _keep(self, answer: dict[str, Any]) -> None:
        self.recovery_codes = answer["recovery_codes"] or self.recovery_codes

    async def listed(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.ask("GET", "/v1/second-factors")).json()
        return found

    async def told(self) -> list[str]:
        events = (await self.ask("GET", "/v1/stream")).json()["events"]
        return [event["content"]["what"] for event in events if event["kind"] == "security"]


async def careful(server: RunningServer, name: str = "ann") -> Careful:
    person = server.person(name)
    await person.register()
    return Careful(server=server, person=person)


async def recorded(server: RunningServer) -> list[tuple[str, dict[str, Any]]]:
    """Acts about factors, and what is kept of them."""
    rows = await server.rows("SELECT action, detail FROM audit WHERE action LIKE 'factor.%%' ORDER BY audit_id")
    return [(action.removeprefix("factor."), detail) for action, detail in rows]


async def factors_of_sessions(server: RunningServer) -> list[str]:
    rows = await server.rows(
        "SELECT detail ->> 'factor' FROM audit WHERE action IN ('session.started', 'session.stepped_up') ORDER BY audit_id"
    )
    return [factor for (factor,) in rows]


@pytest.fixture
async def ann(running: RunningServer) -> Careful:
    return await careful(running)


@asynccontextmanager
async def impatient(database: str, folder: Path) -> AsyncIterator[Careful]:
    """At a server where two wrong factors are free."""
    async with open_server(database, folder, second_factor_free_count=2) as server:
        yield await careful(server)


# TOTP ---------------------------------------------------------------------------------------------------------------


async def test_without_a_factor_the_password_is_enough(ann: Careful) -> None:
    assert outcome(await ann.log_in()) == "ok"
    assert outcome(await ann.log_in({"totp": "123456"})) == "ok", "nothing is asked for, so nothing is looked at"


async def test_a_log_in_wants_the_code_and_says_so_to_who_has_the_password(ann: Careful) -> None:
    await ann.add_totp()
    asked = await ann.log_in()
    assert asked.status_code == 401
    problem = asked.json()
    assert (problem["code"], problem["is_retryable"]) == ("second_factor_required", False)
    assert problem["factors"] == ["totp", "recovery_code"]
    assert (problem["rp_id"], problem["allow_credentials"]) == (RP_ID, [])
    assert outcome(await ann.log_in({"totp": ann.later_code()})) == "ok"
    assert await factors_of_sessions(ann.server) == ["totp"]


async def test_the_same_body_is_good_again_with_the_code(ann: Careful) -> None:
    await ann.add_totp()
    ann.later_code()
    body = await ann.person.login()
    for second_factor, expected in ((None, "second_factor_required"), ({"totp": ann.code()}, "ok")):
        more = {} if second_factor is None else {"second_factor": second_factor}
        assert outcome(await ann.person.http.post("/v1/login", json=body | more)) == expected
    ann.server.clock.offset_s += 301
    assert outcome(await ann.person.http.post("/v1/login", json=body)) == "login_refused", "the nonce is too old"


async def test_a_code_is_taken_once_and_so_is_the_one_that_confirmed(ann: Careful) -> None:
    await ann.add_totp()
    assert outcome(await ann.log_in({"totp": ann.code()})) == "second_factor_refused"
    shown = ann.later_code()
    assert [outcome(await ann.log_in({"totp": shown})) for _ in range(2)] == ["ok", "second_factor_refused"]


async def test_of_many_at_once_one_takes_the_code(ann: Careful) -> None:
    await ann.add_totp()
    shown, outcomes = {"totp": ann.later_code()}, []

    async def try_it() -> None:
        outcomes.append(outcome(await ann.log_in(shown)))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(try_it)
    assert outcomes.count("ok") == 1
    assert set(outcomes) <= {"ok", "second_factor_refused", "rate_limited"}


@pytest.mark.parametrize(
    ("step", "expected"), [(-2, "second_factor_refused"), (-1, "ok"), (1, "ok"), (2, "second_factor_refused")]
)
async def test_clocks_may_differ_by_a_step(ann: Careful, step: int, expected: str) -> None:
    await ann.add_totp()
    ann.server.clock.offset_s += 90
    assert outcome(await ann.log_in({"totp": ann.code(step)})) == expected


async def test_a_log_in_that_fails_later_takes_no_code(ann: Careful) -> None:
    await ann.add_totp()
    shown = {"totp": ann.later_code()}
    taken = {"device": ann.person.tokens["device"]}
    assert outcome(await ann.log_in(shown, new_device=taken)) == "device_id_taken"
    assert outcome(await ann.log_in(shown)) == "ok"


async def test_what_is_pending_protects_nothing_and_replaces_nothing(ann: Careful) -> None:
    assert outcome(await ann.ask("POST", "/v1/totp/confirm", {"code": "123456"})) == "not_found"
    await ann.ask("POST", "/v1/totp", {})
    assert (await ann.listed())["totp_day"] == ""
    assert outcome(await ann.log_in()) == "ok"
    await ann.add_totp()
    old = ann.secret
    new = b32decode((await ann.ask("POST", "/v1/totp", {})).json()["secret"])
    wrong = totp.code(new, 1)
    assert outcome(await ann.ask("POST", "/v1/totp/confirm", {"code": wrong})) == "second_factor_refused"
    assert outcome(await ann.log_in({"totp": ann.later_code()})) == "ok", "the old one is still there"
    ann.secret = new
    confirmed = await ann.ask("POST", "/v1/totp/confirm", {"code": ann.code()})
    assert confirmed.json() == {"recovery_codes": []}, "there are some already"
    assert outcome(await ann.log_in({"totp": ann.later_code()})) == "ok"
    ann.secret = old
    assert outcome(await ann.log_in({"totp": ann.later_code()})) == "second_factor_refused"


async def test_an_app_is_told_who_and_where(ann: Careful) -> None:
    uri = (await ann.ask("POST", "/v1/totp", {})).json()["uri"]
    assert uri.startswith("otpauth://totp/example.org:%40ann%3Aexample.org?secret=")


# Wrong ones ---------------------------------------------------------------------------------------------------------


async def test_wrong_codes_slow_down_and_the_user_is_told(database: str, tmp_path: Path) -> None:
    async with impatient(database, tmp_path) as ann:
        await ann.add_totp()
        outcomes = [outcome(await ann.log_in({"totp": "000000"})) for _ in range(3)]
        assert outcomes == ["second_factor_refused", "second_factor_refused", "rate_limited"]
        right = {"totp": ann.later_code()}
        refused = await ann.log_in(right)
        assert (refused.status_code, refused.json()["limiter"]) == (429, "second_factors_account")
        await trio.sleep(refused.json()["retry_after_s"])
        assert outcome(await ann.log_in(right)) == "ok"
        assert outcome(await ann.log_in({"totp": "000000"})) == "second_factor_refused", "counted from the beginning"
        assert (await ann.told()).count("codes_guessed") == 1
        assert (await recorded(ann.server))[-1] == ("codes_guessed", {})


async def test_what_cannot_be_guessed_need_not_wait(database: str, tmp_path: Path) -> None:
    async with impatient(database, tmp_path) as ann:
        await ann.add_totp()
        passkey = await ann.add_passkey()
        for shown in ({"recovery_code": ann.recovery_codes[0]}, passkey):
            while outcome(await ann.log_in({"totp": "000000"})) != "rate_limited":
                pass
            assert outcome(await ann.log_in(shown)) == "ok"


async def test_whoever_has_the_password_cannot_keep_a_known_device_out(database: str, tmp_path: Path) -> None:
    async with impatient(database, tmp_path) as ann:
        await ann.add_totp()
        while outcome(await ann.log_in({"totp": "000000"})) != "rate_limited":
            pass
        known = ann.person.tokens["refresh_token"]
        assert outcome(await ann.log_in({"totp": ann.later_code()}, known_refresh_token=known)) == "ok"


async def test_a_stranger_has_no_second_factor_to_get_wrong(database: str, tmp_path: Path) -> None:
    async with impatient(database, tmp_path) as ann:
        await ann.add_totp()
        passkey = await ann.add_passkey()
        stranger = ann.server.person("ann")
        for _ in range(6):
            body = await stranger.login(second_factor={"totp": "000000"})
            assert outcome(await stranger.http.post("/v1/login", json=body)) == "login_refused"
            alone = Authenticator(rp_id=RP_ID, origin=ORIGIN, credential_id=passkey.credential_id)
            assert outcome(await ann.log_in_alone(alone)) == "login_refused"
        assert outcome(await ann.log_in({"totp": "000000"})) == "second_factor_refused", "the first wrong one"
        assert outcome(await ann.log_in({"totp": ann.later_code()})) == "ok"
        assert "codes_guessed" not in await ann.told()


# Recovery codes -----------------------------------------------------------------------------------------------------


async def test_a_recovery_code_is_good_once(ann: Careful) -> None:
    await ann.add_totp()
    assert len(set(ann.recovery_codes)) == 10
    shown = {"recovery_code": ann.recovery_codes[3]}
    assert [outcome(await ann.log_in(shown)) for _ in range(2)] == ["ok", "second_factor_refused"]
    assert (await ann.listed())["recovery_codes_left"] == 9
    assert "recovery_code_used" in await ann.told()
    assert ("recovery_code_used", {}) in await recorded(ann.server)
    written = ann.recovery_codes[4].upper().replace("-", " ")
    assert outcome(await ann.log_in({"recovery_code": written})) == "ok"


async def test_new_recovery_codes_make_the_old_ones_void(ann: Careful) -> None:
    assert outcome(await ann.ask("POST", "/v1/recovery-codes", {})) == "not_found"
    await ann.add_totp()
    old = ann.recovery_codes
    ann.recovery_codes = (await ann.ask("POST", "/v1/recovery-codes", {})).json()["recovery_codes"]
    assert outcome(await ann.log_in({"recovery_code": old[0]})) == "second_factor_refused"
    assert outcome(await ann.log_in({"recovery_code": ann.recovery_codes[0]})) == "ok"
    assert (await ann.listed())["recovery_codes_left"] == 9


async def test_a_recovery_code_is_its_own_users(running: RunningServer, ann: Careful) -> None:
    ben = await careful(running, "ben")
    await ann.add_totp()
    await ben.add_totp()
    assert outcome(await ben.log_in({"recovery_code": ann.recovery_codes[0]})) == "second_factor_refused"


# Passkeys -----------------------------------------------------------------------------------------------------------


async def test_a_passkey_beside_the_password(ann: Careful) -> None:
    passkey = await ann.add_passkey(Authenticator(rp_id=RP_ID, origin=ORIGIN, flags=USER_PRESENT))
    assert len(ann.recovery_codes) == 10
    asked = (await ann.log_in()).json()
    assert asked["factors"] == ["recovery_code", "passkey"]
    assert asked["allow_credentials"] == [{"passkey": passkey.passkey, "transports": ["usb"]}]
    assert outcome(await ann.log_in(passkey)) == "ok"
    assert await factors_of_sessions(ann.server) == ["passkey"]


async def test_a_passkey_alone(ann: Careful) -> None:
    await ann.add_totp()
    passkey = await ann.add_passkey()
    answer = await ann.log_in_alone(passkey)
    assert answer.status_code == 201
    ann.person.tokens = answer.json()
    assert (await ann.ask("GET", "/v1/account")).json()["user"] == ann.person.user
    assert await factors_of_sessions(ann.server) == ["passkey_alone"]


async def test_a_passkey_that_counts_nothing_may_be_used_again_and_again(ann: Careful) -> None:
    passkey = await ann.add_passkey(Authenticator(rp_id=RP_ID, origin=ORIGIN, count_step=0))
    assert [outcome(await ann.log_in_alone(passkey)) for _ in range(2)] == ["ok", "ok"]


STRANGE: dict[str, dict[str, Any]] = {
    "rp id": {"rp_id": "evil.test"},
    "origin": {"origin": "http://evil.test"},
    "key": {"key": Authenticator(rp_id="", origin="").key},
    "presence": {"flags": 0x04},
    "handle": {"user_handle": b"somebody else"},
    "frame": {"client_data_more": {"crossOrigin": True}},
    "passkey": {"credential_id": b"unknown"},
}


@pytest.mark.parametrize("changes", STRANGE.values(), ids=STRANGE)
async def test_a_passkeys_answer_must_fit_in_every_way(ann: Careful, changes: dict[str, Any]) -> None:
    passkey = await ann.add_passkey()
    for name, value in changes.items():
        setattr(passkey, name, value)
    assert outcome(await ann.log_in(passkey)) == "second_factor_refused"
    assert outcome(await ann.log_in_alone(passkey)) == "login_refused"
    assert outcome(await ann.step_up(passkey)) == "second_factor_refused"
    assert outcome(await ann.step_up_alone(passkey)) == "login_refused"


async def test_a_passkeys_answer_is_for_one_nonce_user_key_and_purpose(running: RunningServer, ann: Careful) -> None:
    passkey = await ann.add_passkey()
    eve = running.person("eve")
    body = await ann.person.login()
    nonce = body["nonce"]
    for what, statement in {
        "of another nonce": ann.person.login_statement(body | {"nonce": "1.x"}),
        "for another user": eve.login_statement(body, dpop_thumbprint=ann.person.prover.thumbprint),
        "for another DPoP key": ann.person.login_statement(body, dpop_thumbprint="T" * 43),
        "for another device": ann.person.login_statement(body | {"new_device": {"device": "DEVICEofeve"}}),
        "to replace a device": ann.person.login_statement(body | {"replaces": ann.person.tokens["device"]}),
        "for a step-up": ann.person.statement(nonce, "step_up"),
        "for a new passkey": ann.person.statement(nonce, "add_passkey"),
    }.items():
        signed = passkey.sign(passkey_challenge(statement))
        beside, alone = {"second_factor": {"passkey": signed}}, {"signature": signed}
        assert outcome(await eve.http.post("/v1/login", json=body | beside)) == "second_factor_refused", what
        assert outcome(await eve.http.post("/v1/login", json=body | alone)) == "login_refused", what
    assert outcome(await ann.log_in_alone(passkey)) == "ok"


async def test_an_old_answer_is_refused(ann: Careful) -> None:
    passkey = await ann.add_passkey(Authenticator(rp_id=RP_ID, origin=ORIGIN, count_step=0))
    body = await ann.person.login()
    body["signature"] = passkey.sign(passkey_challenge(ann.person.login_statement(body)))
    ann.server.clock.offset_s += 301
    assert outcome(await ann.person.http.post("/v1/login", json=body)) == "login_refused"


async def test_alone_a_passkey_must_have_verified_its_user(ann: Careful) -> None:
    passkey = await ann.add_passkey()
    passkey.flags = USER_PRESENT
    assert outcome(await ann.log_in_alone(passkey)) == "login_refused"
    assert outcome(await ann.step_up_alone(passkey)) == "login_refused"
    assert outcome(await ann.log_in(passkey)) == "ok"


async def test_alone_a_passkey_must_name_its_user(ann: Careful) -> None:
    passkey = await ann.add_passkey()
    passkey.user_handle = b""
    assert outcome(await ann.log_in_alone(passkey)) == "login_refused"
    assert outcome(await ann.log_in(passkey)) == "ok"


async def test_a_counter_that_went_back_is_refused_recorded_and_told(ann: Careful) -> None:
    passkey = await ann.add_passkey()
    passkey.sign_count = 5
    assert outcome(await ann.log_in(passkey)) == "ok"
    for log_in, expected in (
        (ann.log_in, "second_factor_refused"),
        (ann.log_in_alone, "login_refused"),
        (ann.step_up, "second_factor_refused"),
        (ann.step_up_alone, "login_refused"),
    ):
        passkey.sign_count = 5  # and signs with 6, as the last time
        assert outcome(await log_in(passkey)) == expected
    went_back = ("passkey_count_went_back", {"passkey": passkey.passkey})
    assert (await recorded(ann.server)).count(went_back) == 4
    assert (await ann.told()).count("passkey_count_went_back") == 4
    assert outcome(await ann.log_in_alone(passkey)) == "ok", "the one that counts on"


async def test_who_cannot_sign_makes_no_noise(ann: Careful) -> None:
    passkey = await ann.add_passkey()
    forged = Authenticator(rp_id=RP_ID, origin=ORIGIN, credential_id=passkey.credential_id, count_step=0)
    before = await recorded(ann.server)
    assert outcome(await ann.log_in_alone(forged)) == "login_refused"
    assert await recorded(ann.server) == before


async def test_a_user_has_ten_passkeys_at_most_and_each_once(running: RunningServer, ann: Careful) -> None:
    first = await ann.add_passkey()
    assert outcome(await ann.new_passkey(first)) == "key_conflict"
    for _ in range(9):
        await ann.add_passkey()
    refused = await ann.new_passkey()
    assert (outcome(refused), refused.json()["count_max"]) == ("quota_exceeded", 10)
    ben = await careful(running, "ben")
    copied = Authenticator(rp_id=RP_ID, origin=ORIGIN, credential_id=first.credential_id)
    await ben.add_passkey(copied)
    assert outcome(await ben.log_in_alone(first)) == "login_refused"
    assert outcome(await ann.log_in_alone(copied)) == "login_refused"
    assert outcome(await ann.log_in_alone(first)) == "ok"


async def test_a_passkey_is_made_for_a_fresh_nonce_by_this_very_session(ann: Careful) -> None:
    nonce, by = await ann.person.nonce(), Authenticator(rp_id=RP_ID, origin=ORIGIN)
    for statement in (
        ann.person.statement(nonce, "login"),
        ann.person.statement(nonce, "add_passkey", dpop_thumbprint="T" * 43),
        ann.server.person("eve").statement(nonce, "add_passkey"),
    ):
        body = {"nonce": nonce, **by.make(passkey_challenge(statement))}
        assert outcome(await ann.ask("POST", "/v1/passkeys", body)) == "bad_key"
    body = {"nonce": nonce, **by.make(passkey_challenge(ann.person.statement(nonce, "add_passkey")))}
    ann.server.clock.offset_s += 301
    assert outcome(await ann.ask("POST", "/v1/passkeys", body)) == "login_refused"
    assert (await ann.listed())["passkeys"] == []


async def test_a_passkey_may_keep_the_wrapped_recovery_secret(ann: Careful) -> None:
    passkey = await ann.add_passkey()
    path = f"/v1/passkeys/{passkey.passkey}"
    change = {"name": "laptop", "wrapped_recovery": text(b"w" * 4_096)}
    assert outcome(await ann.ask("PUT", path, change)) == "ok"
    [listed] = (await ann.listed())["passkeys"]
    assert (listed["name"], listed["wrapped_recovery"]) == ("laptop", change["wrapped_recovery"])
    assert outcome(await ann.ask("PUT", path, {"wrapped_recovery": text(b"w" * 4_097)})) == "bad_request"
    assert outcome(await ann.ask("PUT", path, {"name": "phone"})) == "ok"
    [listed] = (await ann.listed())["passkeys"]
    assert (listed["name"], "wrapped_recovery" in listed) == ("phone", False)
    assert outcome(await ann.ask("PUT", "/v1/passkeys/unknown", {})) == "not_found"


# Step-up ------------------------------------------------------------------------------------------------------------


async def test_a_step_up_wants_a_second_factor_too(ann: Careful) -> None:
    await ann.add_totp()
    passkey = await ann.add_passkey()
    asked = (await ann.step_up()).json()
    assert (asked["code"], asked["factors"]) == ("second_factor_required", ["totp", "recovery_code", "passkey"])
    assert outcome(await ann.step_up({"totp": "000000"})) == "second_factor_refused"
    for shown in ({"totp": ann.later_code()}, {"recovery_code": ann.recovery_codes[0]}, passkey):
        async with ann.server.pool.transaction() as connection:
            await connection.execute(_STALE)
        assert outcome(await ann.step_up(shown)) == "ok"
        assert await ann.server.rows(_AGES) == [(0,)]
    assert outcome(await ann.step_up_alone(passkey)) == "ok"
    assert await factors_of_sessions(ann.server) == ["totp", "recovery_code", "passkey", "passkey_alone"]


async def test_whatever_changes_a_factor_needs_a_fresh_proof(ann: Careful) -> None:
    passkey = await ann.add_passkey()
    async with ann.server.pool.transaction() as connection:
        await connection.execute(_STALE)
    for method, path, body in (
        ("POST", "/v1/totp", {}),
        ("POST", "/v1/totp/confirm", {"code": "123456"}),
        ("DELETE", "/v1/totp", None),
        ("POST", "/v1/recovery-codes", {}),
        ("GET", "/v1/passkeys/options", None),
        ("POST", "/v1/passkeys", {}),
        ("PUT", f"/v1/passkeys/{passkey.passkey}", {}),
        ("DELETE", f"/v1/passkeys/{passkey.passkey}", None),
    ):
        assert outcome(await ann.ask(method, path, body)) == "step_up_required", path
    assert len((await ann.listed())["passkeys"]) == 1
    assert outcome(await ann.step_up_alone(passkey)) == "ok"
    assert outcome(await ann.ask("DELETE", f"/v1/passkeys/{passkey.passkey}")) == "ok"


# Listed and removed -------------------------------------------------------------------------------------------------


async def test_factors_are_listed_without_a_secret(ann: Careful) -> None:
    assert await ann.listed() == {"totp_day": "", "recovery_codes_left": 0, "passkeys": []}
    await ann.add_totp()
    passkey = await ann.add_passkey()
    [(today,)] = await ann.server.rows("SELECT current_date::text")
    shown = {"passkey": passkey.passkey, "name": "key", "added_day": today, "transports": ["usb"]}
    assert await ann.listed() == {"totp_day": today, "recovery_codes_left": 10, "passkeys": [shown]}


async def test_with_the_last_factor_its_recovery_codes_go(ann: Careful) -> None:
    assert outcome(await ann.ask("DELETE", "/v1/totp")) == "not_found"
    await ann.add_totp()
    passkey = await ann.add_passkey()
    assert outcome(await ann.ask("DELETE", "/v1/totp")) == "ok"
    asked = (await ann.log_in()).json()
    assert asked["factors"] == ["recovery_code", "passkey"]
    for expected in ("ok", "not_found"):
        assert outcome(await ann.ask("DELETE", f"/v1/passkeys/{passkey.passkey}")) == expected
    assert outcome(await ann.log_in()) == "ok"
    assert outcome(await ann.log_in_alone(passkey)) == "login_refused"
    assert await ann.listed() == {"totp_day": "", "recovery_codes_left": 0, "passkeys": []}
    expected_acts = [
        ("totp_added", {}),
        ("recovery_codes_made", {}),
        ("passkey_added", {"passkey": passkey.passkey}),
        ("totp_removed", {}),
        ("passkey_removed", {"passkey": passkey.passkey}),
    ]
    assert await recorded(ann.server) == expected_acts
    assert await ann.told() == [what for what, _ in expected_acts]


async def test_without_a_recovery_code_none_is_offered(ann: Careful) -> None:
    await ann.add_totp()
    async with ann.server.pool.transaction() as connection:
        await connection.execute("DELETE FROM recovery_codes")
    assert (await ann.log_in()).json()["factors"] == ["totp"]


async def test_what_is_done_to_ones_own_touches_nobody_elses(running: RunningServer, ann: Careful) -> None:
    ben = await careful(running, "ben")
    for one in (ann, ben):
        await one.add_totp()
        await one.add_passkey(Authenticator(rp_id=RP_ID, origin=ORIGIN, credential_id=b"the same of both"))
    before = await ben.listed()
    path = f"/v1/passkeys/{ann.passkeys[0].passkey}"
    shown = {"totp": ann.later_code()}
    ann.passkeys[0].sign_count = 100
    for answer in (
        await ann.log_in(shown),
        await ann.log_in(ann.passkeys[0]),
        await ann.ask("PUT", path, {"name": "other"}),
        await ann.ask("POST", "/v1/recovery-codes", {}),
        await ann.ask("DELETE", path),
        await ann.ask("DELETE", "/v1/totp"),
    ):
        assert outcome(answer) == "ok"
    assert await ben.listed() == before
    for mine in ({"totp": ben.code()}, {"recovery_code": ben.recovery_codes[0]}, ben.passkeys[0]):
        assert outcome(await ben.log_in(mine)) == "ok"


async def test_whoever_proves_nothing_makes_nobody_wait(ann: Careful) -> None:
    passkey = await ann.add_passkey()
    forged = Authenticator(rp_id=RP_ID, origin=ORIGIN, credential_id=passkey.credential_id)
    async with ann.server.pool.transaction() as connection:
        await connection.execute("SELECT 1 FROM users FOR UPDATE")  # whoever wanted the row would wait for ever
        with trio.fail_after(10):
            assert outcome(await ann.log_in_alone(forged)) == "login_refused"


async def test_nobody_touches_the_factors_of_others(running: RunningServer, ann: Careful) -> None:
    passkey = await ann.add_passkey()
    eve = await careful(running, "eve")
    assert outcome(await eve.ask("DELETE", f"/v1/passkeys/{passkey.passkey}")) == "not_found"
    assert outcome(await eve.ask("PUT", f"/v1/passkeys/{passkey.passkey}", {})) == "not_found"
    assert outcome(await ann.log_in_alone(passkey)) == "ok"


# What leaks ---------------------------------------------------------------------------------------------------------


async def test_a_stranger_learns_neither_of_names_nor_of_factors(running: RunningServer, ann: Careful) -> None:
    ben, nobody = await careful(running, "ben"), running.person("nobody")
    await ann.add_totp()
    passkey = await ann.add_passkey()
    for person in (ann.person, ben.person):
        person.login_seed = secrets.token_bytes(32)

    async def answer(person: Person, **changes: Any) -> dict[str, Any]:
        refused = await person.http.post("/v1/login", json=await person.login(**changes))
        return {**refused.json(), "request_id": "", "status": refused.status_code}

    unknown = Authenticator(rp_id=RP_ID, origin=ORIGIN)
    for changes in (
        {},
        {"second_factor": {"totp": ann.later_code()}},
        {"second_factor": {"recovery_code": ann.recovery_codes[0]}},
        {"signature": unknown.sign(b"c" * 32)},
        {"signature": passkey.sign(b"c" * 32)},
        {"signature": {**unknown.sign(b"c" * 32), "authenticator_data": "AAAA"}},
    ):
        answers = [await answer(person, **changes) for person in (ann.person, ben.person, nobody)]
        assert answers[0] == answers[1] == answers[2], changes
        assert answers[0]["code"] == "login_refused"
    salts = [(await running.http.post("/v1/salt", json={"user": one.user})).json() for one in (ann.person, nobody)]
    assert salts[0].keys() == salts[1].keys()


async def test_a_locked_account_opens_with_no_factor(ann: Careful) -> None:
    passkey = await ann.add_passkey()
    async with ann.server.pool.transaction() as connection:
        await connection.execute("UPDATE users SET is_locked = true")
    assert outcome(await ann.log_in(passkey)) == "login_refused"
    assert outcome(await ann.log_in_alone(passkey)) == "login_refused"


async def test_no_secret_is_in_the_rows_or_in_the_log(ann: Careful) -> None:
    with capture_logs() as log:
        await ann.add_totp()
        passkey = await ann.add_passkey()
        shown = ann.later_code()
        for factor in ({"totp": shown}, {"recovery_code": ann.recovery_codes[0]}, {"totp": "000000"}, passkey):
            await ann.log_in(factor)
        await ann.log_in_alone(passkey)
    tables = [name for (name,) in await ann.server.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    kept = "".join([str(await ann.server.rows(f"SELECT t::text FROM {table} t")) for table in tables])
    assert passkey.passkey in kept, "this is what the search finds"
    needles = [ann.secret.hex(), totp.secret_text(ann.secret), *ann.recovery_codes]
    needles += [code.replace("-", "") for code in ann.recovery_codes]
    for needle in needles:
        assert needle not in kept
        assert needle not in str(log)
    assert log
    assert shown not in str([{**line, "duration_s": 0} for line in log])


# Bad input ----------------------------------------------------------------------------------------------------------


async def test_what_is_no_proof_is_a_bad_request(ann: Careful) -> None:
    passkey = await ann.add_passkey()
    signed = passkey.sign(b"c" * 32)
    malformed: list[dict[str, Any]] = [
        {"signature": None},
        {"signature": {}},
        {"signature": {**signed, "client_extension_results": {"prf": {}}}},
        {"signature": {**signed, "passkey": "a+b"}},
        {"signature": {**signed, "client_data": text(b" " * 8_193)}},
        {"second_factor": {}},
        {"second_factor": {"totp": "12345"}},
        {"second_factor": {"totp": 123456}},
        {"second_factor": {"totp": "123456", "recovery_code": ann.recovery_codes[0]}},
        {"second_factor": {"recovery_code": "short"}},
        {"second_factor": {"sms": "123456"}},
    ]
    for changes in malformed:
        assert outcome(await ann.log_in(**changes)) == "bad_request", changes
    assert outcome(await ann.new_passkey(attestation="AAAA")) == "bad_key"
    assert outcome(await ann.new_passkey(transports=["USB"])) == "bad_request"
    assert outcome(await ann.new_passkey(name="n" * 65)) == "bad_request"


async def test_the_relying_party_is_the_origins_domain_or_one_above_it(database: str, tmp_path: Path) -> None:
    async with open_server(database, tmp_path, passkey_rp_id="test") as server:
        assert (await server.http.get("/v1/server")).json()["rp_id"] == "test"
        ann = await careful(server)
        passkey = await ann.add_passkey()
        assert passkey.rp_id == "test"
        assert outcome(await ann.log_in_alone(passkey)) == "ok"
        passkey.rp_id = RP_ID
        assert outcome(await ann.log_in_alone(passkey)) == "login_refused"
