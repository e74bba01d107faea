"""Second factors through the SDK, at the real server: shown at log-ins and step-ups, added, removed; a passkey alone."""

from base64 import b32decode
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from chatty.client import (
    PRF_INPUT,
    FactorAsked,
    NoRecoverySecret,
    PasskeyAsked,
    PasskeyAssertion,
    PasskeyMade,
    PasskeyToMake,
    SecondFactor,
    SignedByPasskey,
    WrongRelyingParty,
    open_client,
)
from chatty.client.accounts import Identity
from chatty.client.second_factors import check_rp_id
from chatty.crypto import totp
from chatty.errors import LoginRefused, SecondFactorRefused, SecondFactorRequired, StepUpRequired
from chatty.ids import PasskeyId, UserId
from chatty.wire.second_factors import NewPasskey, NewTotp
from tests.client.enrolled import Enrolled
from tests.server.conftest import ORIGIN, RunningServer, open_server
from tests.software_authenticator import Authenticator

PASSWORD = "correct horse battery staple"
_STALE = "UPDATE refresh_families SET stepped_up_at = now() - interval '1 hour'"


@dataclass(kw_only=True)
class Key:
    """An authenticator with WebAuthn's extension `prf`, as an application would hand it to the SDK."""

    secret: bytes | None = b"p" * 32
    inside: Authenticator = field(default_factory=lambda: Authenticator(rp_id="chatty.test", origin=ORIGIN))
    asked: list[Any] = field(default_factory=list)

    async def make(self, wanted: PasskeyToMake) -> PasskeyMade:
        self.asked.append(wanted)
        self.inside.user_handle = wanted.user_handle
        made = msgspec.convert({"nonce": "n", **self.inside.make(wanted.challenge)}, NewPasskey)
        return PasskeyMade(
            client_data=made.client_data,
            attestation=made.attestation,
            transports=["internal"],
            wrapping_key=self.secret,
        )

    async def sign(self, asked: PasskeyAsked) -> SignedByPasskey:
        self.asked.append(asked)
        return SignedByPasskey(assertion=self._assertion(asked.challenge), wrapping_key=self.secret)

    async def show(self, asked: FactorAsked) -> SecondFactor:
        self.asked.append(asked)
        return SecondFactor(passkey=self._assertion(asked.challenge))

    def _assertion(self, challenge: bytes) -> PasskeyAssertion:
        return msgspec.convert(self.inside.sign(challenge), PasskeyAssertion)


@dataclass(kw_only=True)
class Anna:
    server: RunningServer
    first: Enrolled
    identity: Identity
    open_store: Callable[..., Enrolled]

    @property
    def user(self) -> UserId:
        return self.identity.user

    async def login(self, store: str, second_factor: Any = None) -> Identity:
        """Of a new device."""
        return await self.open_store(store).enrolment.login(
            self.user, PASSWORD, device_name=store, second_factor=second_factor
        )

    def code(self, new: NewTotp, *, later: bool = False) -> str:
        if later:
            self.server.clock.offset_s += 60
        return totp.code(b32decode(new.secret), totp.step_at(self.server.clock()))


@pytest.fixture
async def anna(database: str, tmp_path: Path) -> AsyncIterator[Anna]:
    opened: list[Enrolled] = []
    async with open_server(database, tmp_path) as server:

        def open_store(name: str, transport: httpx.AsyncBaseTransport | None = None) -> Enrolled:
            opened.append(Enrolled(tmp_path / name, server, transport=transport))
            return opened[-1]

        first = open_store("first")
        identity = await first.enrolment.register("anna", PASSWORD, token="", device_name="laptop")
        yield Anna(server=server, first=first, identity=identity, open_store=open_store)
        for one in opened:
            await one.close()


async def test_an_app_s_code_is_shown_when_the_server_asks(anna: Anna) -> None:
    own = anna.first.own_factors(anna.identity)
    new = await own.begin_totp()
    codes = await own.confirm_totp(anna.code(new))
    with pytest.raises(SecondFactorRequired) as required:
        await anna.login("second")
    assert required.value.factors == ["totp", "recovery_code"]
    with pytest.raises(SecondFactorRefused):
        await anna.login("second again", SecondFactor(totp="000000"))
    came = await anna.login("third", SecondFactor(totp=anna.code(new, later=True)))
    assert came.recovery_secret == anna.identity.recovery_secret
    came = await anna.login("fourth", SecondFactor(recovery_code=codes[0]))
    assert came.identity_seed == anna.identity.identity_seed
    assert (await own.list()).recovery_codes_left == 9
    assert len(await own.make_recovery_codes()) == 10
    await own.remove_totp()
    assert (await anna.login("fifth")).user == anna.user


async def test_who_is_asked_may_sign_with_a_passkey(anna: Anna) -> None:
    own, key = anna.first.own_factors(anna.identity), Key(secret=None)
    added = await own.add_passkey(key.make, name="key on USB")
    assert len(added.recovery_codes) == 10
    assert (await anna.login("second", key.show)).recovery_secret == anna.identity.recovery_secret
    asked = key.asked[-1]
    assert (asked.rp_id, [one.passkey for one in asked.allow_credentials]) == ("chatty.test", [added.passkey])
    with pytest.raises(SecondFactorRefused):
        await anna.login("third", Key(inside=Authenticator(rp_id="chatty.test", origin=ORIGIN)).show)
    await own.change_passkey(added.passkey, name="old key")
    assert [one.name for one in (await own.list()).passkeys] == ["old key"]
    await own.remove_passkey(added.passkey)
    assert (await own.list()).passkeys == []


async def test_a_passkey_alone_opens_everything(anna: Anna) -> None:
    key = Key()
    await anna.first.own_factors(anna.identity).add_passkey(key.make)
    second = anna.open_store("second")
    came = await second.enrolment.login_with_passkey(anna.user, key.sign, device_name="phone")
    assert (came.identity_seed, came.recovery_secret) == (anna.identity.identity_seed, anna.identity.recovery_secret)
    assert {one.name for one in (await second.api.devices()).devices} == {"laptop", "phone"}
    assert PRF_INPUT == b"chatty.wrap.v1/recovery"
    with pytest.raises(LoginRefused):
        await anna.open_store("third").enrolment.login_with_passkey(
            UserId("@ben:example.org"), key.sign, device_name=""
        )


@pytest.mark.parametrize("secret", [None, b"q" * 32])
async def test_a_passkey_that_opens_nothing_leaves_no_session(anna: Anna, secret: bytes | None) -> None:
    key = Key()
    await anna.first.own_factors(anna.identity).add_passkey(key.make)
    key.secret = secret
    second = anna.open_store("second")
    with pytest.raises(NoRecoverySecret):
        await second.enrolment.login_with_passkey(anna.user, key.sign, device_name="phone")
    assert not second.api.tokens.is_signed_in
    assert [one.name for one in (await anna.first.api.devices()).devices] == ["laptop"]


async def test_what_is_dangerous_works_after_a_step_up(anna: Anna) -> None:
    own, key = anna.first.own_factors(anna.identity), Key()
    await own.add_passkey(key.make)
    enrolment, identity = anna.first.enrolment, anna.identity

    async def with_password() -> None:
        await enrolment.own_password(identity, second_factor=key.show).step_up(PASSWORD)

    async def with_passkey() -> None:
        await enrolment.step_up_with_passkey(identity, key.sign)

    steps: tuple[Callable[[], Awaitable[None]], ...] = (with_password, with_passkey)
    for step_up in steps:
        async with anna.server.pool.transaction() as connection:
            await connection.execute(_STALE)
        with pytest.raises(StepUpRequired):
            await own.begin_totp()
        await step_up()
        await own.begin_totp()
    with pytest.raises(SecondFactorRequired):
        await enrolment.own_password(identity).step_up(PASSWORD)


class LyingAboutTheDomain(httpx.AsyncBaseTransport):
    """The server asks for signatures for another domain, wherever it names one."""

    def __init__(self) -> None:
        self._inner = httpx.AsyncHTTPTransport(verify=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._inner.handle_async_request(request)
        content = (await answer.aread()).replace(b'"rp_id":"chatty.test"', b'"rp_id":"bank.example"')
        headers = [(name, value) for name, value in answer.headers.raw if name.lower() != b"content-length"]
        return httpx.Response(answer.status_code, headers=headers, content=content)

    async def aclose(self) -> None:
        await self._inner.aclose()


async def test_no_passkey_signs_for_another_domain(anna: Anna) -> None:
    key = Key()
    await anna.first.own_factors(anna.identity).add_passkey(key.make)
    lied_to = anna.open_store("second", LyingAboutTheDomain())
    with pytest.raises(WrongRelyingParty):
        await lied_to.enrolment.login(anna.user, PASSWORD, device_name="", second_factor=key.show)
    with pytest.raises(WrongRelyingParty):
        await lied_to.enrolment.login_with_passkey(anna.user, key.sign, device_name="")
    await anna.first.own_factors(anna.identity).remove_passkey(PasskeyId(key.inside.passkey))
    identity = await lied_to.enrolment.login(anna.user, PASSWORD, device_name="")
    with pytest.raises(WrongRelyingParty):
        await lied_to.own_factors(identity).add_passkey(key.make)
    with pytest.raises(WrongRelyingParty):
        await lied_to.enrolment.step_up_with_passkey(identity, key.sign)
    assert len(key.asked) == 1, "once, by the honest server"


@pytest.mark.parametrize(
    ("rp_id", "is_ours"),
    [
        ("chat.example.org", True),
        ("example.org", True),
        ("", False),
        ("ample.org", False),
        ("a.chat.example.org", False),
    ],
)
def test_a_relying_party_is_the_servers_domain_or_above_it(rp_id: str, is_ours: bool) -> None:
    if is_ours:
        check_rp_id("https://chat.example.org:8443", rp_id)
    else:
        with pytest.raises(WrongRelyingParty):
            check_rp_id("https://chat.example.org:8443", rp_id)


class Elsewhere(httpx.AsyncBaseTransport):
    """The origin as it is signed for, the server where it listens."""

    def __init__(self, url: httpx.URL) -> None:
        self._url, self._inner = url, httpx.AsyncHTTPTransport(verify=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(host=self._url.host, port=self._url.port)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


async def test_a_client_has_all_of_it(anna: Anna, tmp_path: Path) -> None:
    key, transport = Key(), Elsewhere(anna.server.http.base_url)
    async with open_client(ORIGIN, tmp_path / "client", store_key=b"k" * 32, transport=transport) as client:
        await client.login(anna.user, PASSWORD)
        added = await client.second_factors.add_passkey(key.make, name="laptop")
        await client.step_up(PASSWORD, second_factor=SecondFactor(recovery_code=added.recovery_codes[0]))
        await client.step_up_with_passkey(key.sign)
    transport = Elsewhere(anna.server.http.base_url)
    async with open_client(ORIGIN, tmp_path / "other", store_key=b"k" * 32, transport=transport) as client:
        await client.login_with_passkey(anna.user, key.sign, device_name="phone")
        assert [one.name for one in (await client.second_factors.list()).passkeys] == ["laptop"]
