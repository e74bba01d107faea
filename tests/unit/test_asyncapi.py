"""The document of the WebSocket: every frame is in it, it is sound, and real frames fit it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from chatty.web.asyncapi import ANSWERS, EVENTS, REQUESTS, frame_type, make_document
from chatty.web.gateway import path as socket_path
from chatty.wire import frames
from chatty.wire.frames import ClientFrame, ServerFrame

DOCUMENT = make_document(version="1.2.3", origin="https://chat.example.org:8443")
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "frames.json").read_text("utf-8"))


def references(value: Any) -> Iterator[str]:
    match value:
        case {"$ref": str(target)}:
            yield target
        case dict():
            for item in value.values():
                yield from references(item)
        case list():
            for item in value:
                yield from references(item)


def at(reference: str) -> Any:
    value: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        value = value[step]
    return value


def types_of(operation: dict[str, Any]) -> list[str]:
    return [str(at(at(message["$ref"])["$ref"])["name"]) for message in operation["messages"]]


def fits(frame: dict[str, Any], kinds: tuple[Any, ...]) -> bool:
    [name] = [one.__name__ for one in kinds if frame_type(one) == frame["type"]]
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return bool(Draft7Validator(schema).is_valid(frame))


def test_every_frame_is_in_it() -> None:
    named = {(name, message["name"]) for name, message in DOCUMENT["components"]["messages"].items()}
    kinds = [*ClientFrame.__args__, *ServerFrame.__args__]
    assert named == {(one.__name__, frame_type(one)) for one in kinds}
    assert set(DOCUMENT["channels"]["socket"]["messages"]) == {one.__name__ for one in kinds}


def test_every_message_says_what_it_is_for() -> None:
    assert [name for name, message in DOCUMENT["components"]["messages"].items() if len(message["summary"]) < 10] == []


def test_it_has_what_asyncapi_3_asks_for() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(DOCUMENT["info"])
    assert DOCUMENT["servers"]["this"] == {"host": "chat.example.org:8443", "protocol": "wss"}
    assert DOCUMENT["channels"]["socket"]["address"] == socket_path == "/v1/ws"
    known = {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"}
    assert set(DOCUMENT) <= known
    for operation in DOCUMENT["operations"].values():
        assert operation["action"] in ("send", "receive")
        assert operation["channel"] == {"$ref": "#/channels/socket"}
        # An operation names messages of its channel, not of the components.
        for message in (*operation["messages"], *operation.get("reply", {}).get("messages", [])):
            assert message["$ref"].startswith("#/channels/socket/messages/")


def test_every_reference_leads_somewhere() -> None:
    found = list(references(DOCUMENT))
    assert len(found) > 50
    for reference in found:
        assert isinstance(at(reference), dict), reference


def test_every_schema_is_a_schema_without_python_s_own_patterns() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)
    assert "(?!" not in json.dumps(DOCUMENT)


def test_each_request_names_its_answer() -> None:
    for one in REQUESTS:
        reply = DOCUMENT["operations"][f"request_{frame_type(one)}"]["reply"]
        assert types_of(reply) == [frame_type(ANSWERS.get(one, frames.Done)), "error"]


def test_what_comes_unasked_is_no_answer() -> None:
    unasked = types_of(DOCUMENT["operations"]["events"])
    assert {"challenge", "event", "gap", "mailbox", "lagging", "resumed", "error"} <= set(unasked)
    assert not {"ack", "done", "welcome", "checkpoint"} & set(unasked)


@pytest.mark.parametrize("case", VECTORS["requests"])
def test_a_real_request_fits_and_one_with_another_field_does_not(case: dict[str, str]) -> None:
    frame = json.loads(case["json"])
    assert fits(frame, REQUESTS)
    assert not fits({**frame, "other": 1}, REQUESTS)


@pytest.mark.parametrize("case", VECTORS["events"])
def test_a_real_event_fits(case: dict[str, str]) -> None:
    assert fits(json.loads(case["json"]), EVENTS)
