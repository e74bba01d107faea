"""Errors come as the classes that the server raised; tokens are on disk before they are used; calls are repeated under one n."""

from collections.abc import Callable, Coroutine, Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import msgspec
import pytest
import trio
from trio.testing import MockClock

from chatty.client.backoff import Backoff, Jitter, delay_s_max
from chatty.client.errors import RemoteError, Unreachable, error_from, is_retryable
from chatty.client.http import Api, call_timeout_s
from chatty.client.reasons import NotSignedIn
from chatty.client.store import LocalStore
from chatty.client.tokens import SavedTokens, TokenKeeper
from chatty.errors import (
    ChattyError,
    DeviceSetStale,
    LastOwner,
    MailboxQuotaExceeded,
    MessageIdClosed,
    Overloaded,
    RateLimited,
    RefreshRefused,
    SecondFactorRequired,
    SendWindowFull,
    StepUpRequired,
    StoreUnavailable,
)
from chatty.ids import DeviceId, ListVersion, SendNumber, Seq, UserId
from chatty.wire.accounts import Refresh, Tokens
from chatty.wire.keys import KeyClaim


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    store = LocalStore(tmp_path / "s", key=b"k" * 32)
    yield store
    store.close()


def over_the_wire(error: ChattyError) -> ChattyError:
    return error_from(
        error.code,
        str(error),
        is_retryable=error.is_retryable,
        retry_after_s=error.retry_after_s,
        details=error.fields(),
    )


ERRORS = [
    DeviceSetStale(epoch=Seq(7), changed={UserId("@a:b"): ListVersion(3)}),
    MessageIdClosed(highest_n=SendNumber(9), low=SendNumber(4)),
    SendWindowFull(highest_n=SendNumber(9), low=SendNumber(4)),
    Overloaded(limiter="journal", retry_after_s=2.0),
    RateLimited(limiter="sends", retry_after_s=2.0),
    MailboxQuotaExceeded(quota="mailbox", count_max=5),
    SecondFactorRequired(factors=["passkey"], rp_id="x", allow_credentials=[{"passkey": "A", "transports": ["usb"]}]),
    StepUpRequired(age_s_max=600.0),
    StoreUnavailable("no database"),
    LastOwner("the last owner"),
]


@pytest.mark.parametrize("error", ERRORS, ids=[error.code for error in ERRORS])
def test_an_error_arrives_as_what_it_was(error: ChattyError) -> None:
    arrived = over_the_wire(error)
    assert type(arrived) is type(error)
    assert (arrived.fields(), arrived.is_retryable) == (error.fields(), error.is_retryable)


@pytest.mark.parametrize(("code", "details"), [("device_set_stale", {}), ("never_heard_of", {}), ("overloaded", {})])
def test_what_fits_no_class_is_a_remote_error(code: str, details: dict[str, object]) -> None:
    error = error_from(code, "x", is_retryable=True, retry_after_s=None, details=details)
    assert isinstance(error, RemoteError)
    assert error.remote_code == code
    assert is_retryable(error)


def test_the_backoff_grows_to_its_bound_and_honours_the_server() -> None:
    backoff = Backoff(jitter=lambda ceiling_s: ceiling_s)
    assert backoff.next_s(retry_after_s=5.0) == 5.1
    for _ in range(20):
        backoff.next_s()
    assert backoff.next_s() == delay_s_max
    backoff.reset()
    assert backoff.next_s() == 0.1


def tokens(number: int) -> Tokens:
    return Tokens(
        user=UserId("@ann:example.org"),
        device=DeviceId("DEVICEann"),
        access_token=f"access{number}",
        refresh_token=f"refresh{number}",
        expires_in_s=100,
    )


async def test_a_new_refresh_token_is_on_disk_before_its_access_token_is_used(store: LocalStore) -> None:
    asked: list[str] = []
    now_s = 1_000.0

    async def ask(refresh: Refresh) -> Tokens:
        asked.append(refresh.refresh_token)
        return tokens(len(asked) + 1)

    keeper = TokenKeeper(store, ask=ask, now_s=lambda: now_s)
    with pytest.raises(NotSignedIn):
        await keeper.access_token()
    keeper.save(tokens(1))
    assert await keeper.access_token() == "access1"
    now_s += 80
    assert await keeper.access_token() == "access2"
    saved = store.get("tokens", "", SavedTokens)
    assert saved is not None
    assert saved.refresh_token == "refresh2"
    assert await keeper.access_token(refused="access1") == "access2"  # a late refusal of an older one
    assert await keeper.access_token(refused="access2") == "access3"
    assert asked == ["refresh1", "refresh2"]


class Answers:
    """What the server answers, one after the other; `asked` keeps the requests."""

    def __init__(self, *answers: httpx.Response | httpx.TransportError) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, httpx.TransportError):
            raise answer
        return answer


def api(
    store: LocalStore,
    answers: Callable[[httpx.Request], Coroutine[None, None, httpx.Response]],
    *,
    jitter: Jitter = lambda ceiling_s: 0.0,
) -> Api:
    made = Api("http://chatty.test", store, transport=httpx.MockTransport(answers), jitter=jitter)
    made.tokens.save(tokens(1))
    return made


def problem(error: ChattyError) -> httpx.Response:
    body = {"code": error.code, "detail": str(error), "is_retryable": error.is_retryable, **error.fields()}
    return httpx.Response(error.http_status, json=body)


async def test_a_durable_call_is_repeated_under_its_n(store: LocalStore) -> None:
    answers = Answers(
        problem(Overloaded(limiter="x", retry_after_s=0.0)),
        httpx.ReadError("broken"),
        httpx.Response(200, json={"one_time_keys": {}}),
    )
    await api(store, answers).claim_keys(KeyClaim(one_time_keys={}), n=SendNumber(5), low=SendNumber(3))
    named = [(one.headers["Idempotency-Key"], one.headers["Chatty-Low"], one.content) for one in answers.asked]
    assert named == [named[0]] * 3
    assert named[0][:2] == ("5", "3")


async def test_an_expired_token_is_refreshed_and_the_call_repeated(store: LocalStore) -> None:
    answers = Answers(
        httpx.Response(401, json={"code": "token_expired"}),
        httpx.Response(200, content=msgspec.json.encode(tokens(2))),
        httpx.Response(200, json={"devices": []}),
    )
    assert (await api(store, answers).devices()).devices == []
    assert [one.url.path for one in answers.asked] == ["/v1/devices", "/v1/token", "/v1/devices"]
    assert answers.asked[2].headers["Authorization"] == "DPoP access2"


@pytest.mark.parametrize("code", ["token_expired", "use_dpop_nonce"])
async def test_what_is_mended_at_once_is_so_once_and_then_waited_for(
    store: LocalStore, autojump_clock: MockClock, code: str
) -> None:
    asked_at_s: list[float] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/token":
            return httpx.Response(200, content=msgspec.json.encode(tokens(len(asked_at_s) + 1)))
        asked_at_s.append(trio.current_time())
        return httpx.Response(401, json={"code": code})

    with pytest.raises(ChattyError) as refused:
        await api(store, answer, jitter=lambda ceiling_s: ceiling_s).devices()
    assert refused.value.code == code
    pauses_s = [after - before for before, after in pairwise(asked_at_s)]
    assert pauses_s[0] == 0.0
    assert pauses_s[1:] == pytest.approx([0.1 * 2**n for n in range(len(pauses_s) - 1)])
    assert call_timeout_s / 2 < asked_at_s[-1] - asked_at_s[0] <= call_timeout_s


async def test_an_ended_session_is_final(store: LocalStore) -> None:
    answers = Answers(httpx.Response(401, json={"code": "token_expired"}), problem(RefreshRefused("over")))
    with pytest.raises(RefreshRefused):
        await api(store, answers).devices()


@pytest.mark.parametrize("answer", [httpx.Response(500, text="<html>"), httpx.Response(200, text="no JSON")])
async def test_an_answer_that_is_none_is_a_remote_error(store: LocalStore, answer: httpx.Response) -> None:
    with pytest.raises(RemoteError):
        await api(store, Answers(answer)).devices()


async def test_a_log_in_is_not_repeated_by_itself(store: LocalStore) -> None:
    answers = Answers(httpx.ConnectError("nobody there"))
    with pytest.raises(Unreachable):
        await api(store, answers).login(None)  # type: ignore[arg-type]
    assert len(answers.asked) == 1
