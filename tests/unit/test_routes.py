"""Routes: the signature of a handler is enforced before it runs."""

from typing import Annotated, Any

import pytest
from msgspec import Meta
from quart_trio import QuartTrio

from chatty.errors import RateLimited, Unauthenticated
from chatty.ids import DeviceId, DeviceNumber, FamilyId, UserId, UserNumber
from chatty.services.caller import Caller
from chatty.services.dpop import ProvenRequest
from chatty.services.permissions import CHAT, PUBLIC, SIGNED_IN, Permission
from chatty.telemetry import Metrics
from chatty.web.application import make_quart
from chatty.web.openapi import openapi_route
from chatty.web.routes import NumberedRequest, Reply, RequestInfo, Route, route
from chatty.wire.accounts import HttpBody
from chatty.wire.types import RoomIdField, SeqField

body_bytes_max = 2_000
JSON = {"Content-Type": "application/json"}
SIGNED = {"Authorization": "DPoP good"}
ROOM = "!" + "a" * 43


class Note(HttpBody, frozen=True, kw_only=True):
    text: str
    inside: list[Any] = []


class Seen(HttpBody, frozen=True, kw_only=True):
    saw: dict[str, Any]


def caller(role: str = "user") -> Caller:
    return Caller(
        user=UserId("@ann:x"),
        user_number=UserNumber(1),
        device=DeviceId("DEVICEONE"),
        device_number=DeviceNumber(2),
        family=FamilyId("f"),
        role=role,
        thumbprint="T" * 43,
        step_up_age_s=0.0,
        expires_at_s=0.0,
    )


class OneCaller:
    """The token is the role."""

    async def authenticate(self, token: str, _: ProvenRequest) -> Caller:
        if token not in ("good", "auditor"):
            raise Unauthenticated("forged")
        return caller("user" if token == "good" else "auditor")

    async def look_again(self, caller: Caller) -> Caller:
        return caller


def sample_routes() -> list[Route]:
    @route("POST", "/v1/notes", permission=PUBLIC, statuses=(201, 200))
    async def post(body: Note, request: RequestInfo) -> Reply[Seen]:
        """Say it back."""
        return Reply(Seen(saw={"text": body.text, "request": request.request_id}), 200 if body.text == "old" else 201)

    @route("GET", "/v1/rooms/{room}/notes", permission=PUBLIC)
    async def read(
        room: RoomIdField, after: SeqField, limit: Annotated[int, Meta(ge=1, le=9)] = 5, name: str = ""
    ) -> Seen:
        """Read notes."""
        return Seen(saw={"room": room, "after": after, "limit": limit, "name": name})

    @route("POST", "/v1/numbered", permission=CHAT)
    async def numbered(caller: Caller, body: Note, request: NumberedRequest) -> Seen:
        """Write once."""
        return Seen(saw={"user": caller.user, "n": request.n, "low": request.low})

    @route("GET", "/v1/crash", permission=PUBLIC)
    async def crash() -> Seen:
        """Fail."""
        raise ZeroDivisionError("a secret")

    @route("GET", "/v1/limited", permission=SIGNED_IN, errors=(RateLimited,))
    async def limited(caller: Caller) -> Seen:
        """Refuse."""
        raise RateLimited(limiter="notes", retry_after_s=1.2)

    return [post, read, numbered, crash, limited]


@pytest.fixture
def app() -> QuartTrio:
    routes = sample_routes()
    return make_quart(
        [*routes, openapi_route(routes, version="1")],
        authenticator=OneCaller(),
        make_nonce=lambda: "nonce",
        metrics=Metrics(),
        body_bytes_max=body_bytes_max,
    )


async def post(app: QuartTrio, data: bytes, path: str = "/v1/notes", **headers: str) -> tuple[int, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await app.test_client().post(path, data=data, headers={**JSON, **named})
    return answer.status_code, await answer.get_json()


async def get(app: QuartTrio, path: str, **headers: str) -> tuple[int, Any]:
    answer = await app.test_client().get(path, headers=headers)
    return answer.status_code, await answer.get_json()


async def test_a_valid_body_reaches_the_handler(app: QuartTrio) -> None:
    answer = await app.test_client().post("/v1/notes", data=b'{"text": "hi"}', headers=JSON)
    assert answer.status_code == 201
    assert await answer.get_json() == {"saw": {"text": "hi", "request": answer.headers["X-Request-Id"]}}


async def test_a_handler_chooses_among_its_statuses(app: QuartTrio) -> None:
    assert (await post(app, b'{"text": "old"}'))[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"text": 5}',
        b'{"text": "x", "unknown": 1}',
        b'{"text": "\xff"}',
        b'{"text": "\x00"}',
        b'{"text": "a\\u0000b"}',
        b'{"text": "\\\\\\u0000"}',
        b'{"text": "\\ud800 and on"}',
        b'{"text": "x", "inside": [' + b"[" * 1_900,
    ],
)
async def test_what_is_no_valid_body_is_a_bad_request(app: QuartTrio, body: bytes) -> None:
    status, problem = await post(app, body)
    assert (status, problem["code"]) == (400, "bad_request")


async def test_deep_nesting_is_a_bad_request(app: QuartTrio) -> None:
    depth = body_bytes_max // 2 - 20
    status, problem = await post(app, b'{"text":"x","inside":' + b"[" * depth + b"]" * depth + b"}")
    assert (status, problem["code"]) == (400, "bad_request")


async def test_an_escaped_backslash_before_u0000_is_text(app: QuartTrio) -> None:
    status, answer = await post(app, b'{"text": "\\\\u0000"}')
    assert (status, answer["saw"]["text"]) == (201, "\\u0000")


async def test_a_body_above_the_bound_is_too_large(app: QuartTrio) -> None:
    status, problem = await post(app, b'{"text": "' + b"x" * body_bytes_max + b'"}')
    assert (status, problem["code"], problem["bytes_max"]) == (413, "too_large", body_bytes_max)


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/json; charset=latin-1",
        "application/json; charset=\u00ff",
        'application/json; charset="utf-8',
        "application/json; charset=utf-8; version=2",
        "application/json, application/json",
        "",
    ],
)
async def test_only_json_in_utf8_is_taken(app: QuartTrio, content_type: str) -> None:
    status, problem = await post(app, b'{"text": "x"}', Content_Type=content_type)
    assert (status, problem["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type", ["Application/JSON", "application/json;charset=utf8", 'application/json; charset="UTF-8"']
)
async def test_json_in_utf8_may_say_so(app: QuartTrio, content_type: str) -> None:
    assert (await post(app, b'{"text": "x"}', Content_Type=content_type))[0] == 201


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("Authorization", "unauthenticated"),
        ("DPoP", "invalid_dpop_proof"),
        ("Content-Type", "unsupported_media_type"),
        ("Idempotency-Key", "bad_request"),
        ("Chatty-Low", "bad_request"),
    ],
)
async def test_a_header_that_comes_twice_is_refused(app: QuartTrio, name: str, code: str) -> None:
    once = {**JSON, **SIGNED, "Idempotency-Key": "7", "Chatty-Low": "3", "DPoP": "proof"}
    client = app.test_client()
    assert (await client.post("/v1/numbered", data=b'{"text": "x"}', headers=once)).status_code == 200
    answer = await client.post("/v1/numbered", data=b'{"text": "x"}', headers=[*once.items(), (name, once[name])])
    assert (await answer.get_json())["code"] == code


async def test_parameters_are_typed_and_have_defaults(app: QuartTrio) -> None:
    status, answer = await get(app, f"/v1/rooms/{ROOM}/notes?after=7")
    assert (status, answer["saw"]) == (200, {"room": ROOM, "after": 7, "limit": 5, "name": ""})


@pytest.mark.parametrize(
    "path",
    [
        "/v1/rooms/short/notes?after=7",
        f"/v1/rooms/{ROOM}/notes",
        f"/v1/rooms/{ROOM}/notes?after=x",
        f"/v1/rooms/{ROOM}/notes?after=07",
        f"/v1/rooms/{ROOM}/notes?after=1.0",
        f"/v1/rooms/{ROOM}/notes?after=-1",
        f"/v1/rooms/{ROOM}/notes?after=1&after=2",
        f"/v1/rooms/{ROOM}/notes?after=1&limit=10",
        f"/v1/rooms/{ROOM}/notes?after=1&unknown=1",
        f"/v1/rooms/{ROOM}/notes?after=1&name=%00",
        f"/v1/rooms/{ROOM}/notes?after=1&name=%ff",
    ],
)
async def test_wrong_parameters_are_a_bad_request(app: QuartTrio, path: str) -> None:
    status, problem = await get(app, path)
    assert (status, problem["code"]) == (400, "bad_request")


async def test_a_numbered_request_carries_n_and_low(app: QuartTrio) -> None:
    numbers = {"Idempotency_Key": "7", "Chatty_Low": "3"}
    status, answer = await post(app, b'{"text": "x"}', "/v1/numbered", **SIGNED, **numbers)
    assert (status, answer["saw"]) == (200, {"user": "@ann:x", "n": 7, "low": 3})


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"Idempotency_Key": "7"},
        {"Idempotency_Key": "x", "Chatty_Low": "1"},
        {"Idempotency_Key": "1", "Chatty_Low": "2"},
    ],
)
async def test_a_numbered_request_without_its_numbers_is_refused(app: QuartTrio, numbers: dict[str, str]) -> None:
    status, problem = await post(app, b'{"text": "x"}', "/v1/numbered", **SIGNED, **numbers)
    assert (status, problem["code"]) == (400, "bad_request")


@pytest.mark.parametrize("authorization", ["", "Basic good", "DPoP", "DPoP forged", "DPoP go\u00f6d"])
async def test_without_a_good_token_nothing_is_read(app: QuartTrio, authorization: str) -> None:
    answer = await app.test_client().post("/v1/numbered", data=b"{", headers={"Authorization": authorization})
    assert answer.status_code == 401
    assert (await answer.get_json())["code"] == "unauthenticated"
    assert "DPoP" in answer.headers["WWW-Authenticate"]


async def test_a_role_without_the_permission_is_forbidden(app: QuartTrio) -> None:
    status, problem = await post(app, b'{"text": "x"}', "/v1/numbered", Authorization="DPoP auditor")
    assert (status, problem["code"]) == (403, "forbidden")


async def test_a_crash_tells_its_request_id_and_nothing_else(app: QuartTrio) -> None:
    status, problem = await get(app, "/v1/crash")
    assert (status, problem["code"]) == (500, "internal_error")
    assert "secret" not in str(problem)
    assert len(problem["request_id"]) >= 8


async def test_a_retryable_error_says_when_and_which_limiter(app: QuartTrio) -> None:
    answer = await app.test_client().get("/v1/limited", headers=SIGNED)
    problem = await answer.get_json()
    assert answer.headers["Retry-After"] == "2"
    assert answer.content_type == "application/problem+json"
    assert (problem["limiter"], problem["retry_after_s"], problem["is_retryable"]) == ("notes", 1.2, True)


async def test_unknown_paths_and_methods_are_problems_too(app: QuartTrio) -> None:
    assert (await get(app, "/v1/nothing"))[1]["code"] == "not_found"
    answer = await app.test_client().get("/v1/notes")
    assert (await answer.get_json())["code"] == "method_not_allowed"
    assert answer.headers["Allow"] == "POST"


async def test_answers_are_not_stored_and_carry_the_request_id(app: QuartTrio) -> None:
    answer = await app.test_client().get("/v1/nothing", headers={"X-Request-Id": "bad id"})
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Request-Id"] == (await answer.get_json())["request_id"] != "bad id"


def test_a_permission_outside_the_table_fails_at_start() -> None:
    with pytest.raises(TypeError, match="not in the table"):
        route("GET", "/x", permission=Permission(name="mine", roles=None))
    with pytest.raises(TypeError, match="permission"):
        route("GET", "/x")  # type: ignore[call-arg]


def test_a_caller_on_a_public_route_fails_at_start() -> None:
    async def handler(caller: Caller) -> Seen:
        raise NotImplementedError

    with pytest.raises(TypeError, match="caller"):
        route("GET", "/x", permission=PUBLIC)(handler)


def test_a_path_parameter_without_an_argument_fails_at_start() -> None:
    async def handler() -> Seen:
        raise NotImplementedError

    with pytest.raises(TypeError, match="room"):
        route("GET", "/x/{room}", permission=PUBLIC)(handler)


def test_one_operation_is_routed_once() -> None:
    routes = sample_routes()
    with pytest.raises(TypeError, match="two routes"):
        make_quart(
            [*routes, routes[0]],
            authenticator=OneCaller(),
            make_nonce=lambda: "nonce",
            metrics=Metrics(),
            body_bytes_max=body_bytes_max,
        )


async def test_openapi_describes_every_route(app: QuartTrio) -> None:
    status, document = await get(app, "/openapi.json")
    assert status == 200
    operation = document["paths"]["/v1/numbered"]["post"]
    assert {item["name"] for item in operation["parameters"]} == {"Idempotency-Key", "Chatty-Low"}
    assert "message_id_conflict" in operation["responses"]["409"]["description"]
    assert set(document["paths"]["/v1/notes"]["post"]["responses"]) >= {"200", "201", "400", "413", "415"}
    assert "(?!" not in str(document)
