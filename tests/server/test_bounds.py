"""What one request may hold, at each edge: as much as the limit is taken, one more is refused and keeps nothing."""

from collections.abc import Callable
from typing import Any

from chatty.wire import limits
from chatty.wire.canonical import canonical_json, encode_base64
from tests.people import Person, new_device_id
from tests.server.app_fixtures import RunningApp
from tests.server.wire_people import ORIGIN, SERVER_NAME, HttpRefused, WireDevice, sign_in

_ONE_TIME_KEYS_MAX, _KEYS_IN_AN_UPLOAD_MAX = 50, 100


async def code_of(device: WireDevice, path: str, body: Any, *, n: int | None = None) -> str:
    """Of the refusal; empty for success."""
    try:
        await device.post(path, body, n=n)
    except HttpRefused as refused:
        return refused.code
    return ""


async def codes_at_edge(
    device: WireDevice, path: str, make_body: Callable[[int], Any], edge: int, *, is_numbered: bool = False
) -> tuple[str, str]:
    """At the limit, and one above it."""
    at, above = [
        await code_of(device, path, make_body(count), n=device.take_n() if is_numbered else None)
        for count in (edge, edge + 1)
    ]
    return at, above


def devices_of_nobody(count: int) -> dict[str, list[str]]:
    """Addresses of as many devices, 100 a user: how many users are asked is another limit."""
    return {
        f"@nobody{at}:{SERVER_NAME}": [f"DEVICE{number:06}" for number in range(at, min(at + 100, count))]
        for at in range(0, count, 100)
    }


async def test_a_query_names_at_most_500_users(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")

    def query(count: int) -> Any:
        return {"device_keys": {f"@user{at}:{SERVER_NAME}": [] for at in range(count)}}

    assert await codes_at_edge(ann, "/v1/keys/query", query, limits.query_users_max) == ("", "bad_request")


async def test_a_claim_names_at_most_500_devices(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")

    def claim(count: int) -> Any:
        named = devices_of_nobody(count).items()
        return {"one_time_keys": {user: dict.fromkeys(devices, "signed_curve25519") for user, devices in named}}

    codes = await codes_at_edge(ann, "/v1/keys/claim", claim, limits.claim_devices_max, is_numbered=True)
    assert codes == ("", "bad_request")


async def test_a_message_goes_to_at_most_250_devices(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")

    def message(count: int) -> Any:
        named = devices_of_nobody(count).items()
        contents = {user: dict.fromkeys(devices, ann.olm_content(ann)) for user, devices in named}
        return {"type": "m.room.encrypted", "messages": contents}

    codes = await codes_at_edge(ann, "/v1/to-device", message, limits.to_device_recipients_max, is_numbered=True)
    assert codes == ("", "bad_request")


async def test_a_content_between_devices_holds_at_most_64_kib(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    phone = await sign_in(ann)
    frame_bytes = len(canonical_json(ann.olm_content(phone, "")))

    def message(size_bytes: int) -> Any:
        content = ann.olm_content(phone, "A" * (size_bytes - frame_bytes))
        return {"type": "m.room.encrypted", "messages": {phone.user: {phone.device: content}}}

    edge = limits.to_device_content_bytes_max
    assert await codes_at_edge(ann, "/v1/to-device", message, edge, is_numbered=True) == ("", "too_large")
    assert await chat.rows("SELECT count(*) FROM mailbox") == [(1,)]


async def test_a_device_keeps_at_most_50_one_time_keys(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    keys = {**ann.olm.one_time_keys(49)}
    await ann.post("/v1/keys/upload", {"one_time_keys": keys})
    two = ann.olm.one_time_keys(2)
    assert await code_of(ann, "/v1/keys/upload", {"one_time_keys": two}) == "quota_exceeded"
    assert await chat.rows("SELECT count(*) FROM one_time_keys") == [(49,)]
    answer = await ann.post("/v1/keys/upload", {"one_time_keys": dict([two.popitem()])})
    assert answer["one_time_key_counts"] == {"signed_curve25519": _ONE_TIME_KEYS_MAX}


async def test_an_upload_holds_at_most_100_keys(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    ((_, key),) = ann.olm.one_time_keys(1).items()

    def upload(count: int) -> Any:
        return {"one_time_keys": {f"signed_curve25519:{at}": key for at in range(count)}}

    codes = await codes_at_edge(ann, "/v1/keys/upload", upload, _KEYS_IN_AN_UPLOAD_MAX)
    assert codes == ("quota_exceeded", "bad_request")
    assert await chat.rows("SELECT count(*) FROM one_time_keys") == [(0,)]


async def test_the_wrapped_secrets_hold_at_most_4_kib_and_something(chat: RunningApp) -> None:
    for number, field in enumerate(("wrapped_recovery", "wrapped_identity")):
        codes = []
        for size in (0, limits.wrapped_secret_bytes_max + 1, limits.wrapped_secret_bytes_max):
            person = Person(http=chat.http, name=f"person{number}", server_name=SERVER_NAME, origin=ORIGIN)
            padding = "=" * (-len(text := encode_base64(bytes(size))) % 4)
            codes.append((await person.register(**{field: text + padding})).status_code)
        assert codes == [400, 400, 201], field


async def test_names_are_as_long_as_their_limits(chat: RunningApp) -> None:
    for name in ("a" * 64, "b"):
        person = Person(http=chat.http, name=name, server_name=SERVER_NAME, origin=ORIGIN)
        assert (await person.register()).status_code == 201, name
        for wrong in ("a" * 65, ""):
            assert (await person.register(name=wrong)).status_code == 400, wrong
    ann = await chat.sign_up("ann")
    for length, status in ((limits.device_name_chars_max, 200), (limits.device_name_chars_max + 1, 400)):
        answer = await ann.answer("PUT", f"/v1/devices/{ann.device}/name", {"name": "é" * length})
        assert answer.status_code == status


async def test_a_device_id_has_8_to_64_characters(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    fill = new_device_id()
    for length, status in ((7, 400), (65, 400), (8, 201), (64, 201)):
        answer = await ann.person.log_in(new_device={"device": (fill * 8)[-length:]})
        assert answer.status_code == status, length
