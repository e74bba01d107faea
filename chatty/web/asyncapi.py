"""AsyncAPI 3.0 of the WebSocket, from the frames themselves: what a client may send, what answers it, what comes unasked."""

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, get_args
from urllib.parse import urlsplit

import msgspec

from chatty.services.permissions import PUBLIC
from chatty.web import gateway
from chatty.web.openapi import portable
from chatty.web.routes import Route, route
from chatty.wire import frames, limits
from chatty.wire.frames import ClientFrame, ServerFrame

_REFERENCE = "#/components/schemas/{name}"
_SOCKET = {"$ref": "#/channels/socket"}
_DESCRIPTION = f"""One connection of one device. Text messages hold JSON under the subprotocol {frames.JSON_SUBPROTOCOL},
binary messages MessagePack under {frames.MSGPACK_SUBPROTOCOL}, with the same fields; byte fields are base64 in JSON and binary in
MessagePack. A message of the client is one request or a list of 1 to {limits.requests_per_frame_max}; a message of the server is
always a list of events."""

Frame = type[msgspec.Struct]
REQUESTS: tuple[Frame, ...] = get_args(ClientFrame)
EVENTS: tuple[Frame, ...] = get_args(ServerFrame)
# The event that answers a request; `done` where none is named. Each may be answered by `error` instead.
ANSWERS: Mapping[Frame, Frame] = MappingProxyType(
    {
        frames.Hello: frames.Welcome,
        frames.Send: frames.Ack,
        frames.CheckpointRequest: frames.Checkpoint,
    }
)


def asyncapi_route(*, version: str, origin: str) -> Route:
    """GET /asyncapi.json, made once. origin: the public one."""
    made = make_document(version=version, origin=origin)

    @route("GET", "/asyncapi.json", permission=PUBLIC)
    async def document() -> dict[str, Any]:
        """The WebSocket's frames as AsyncAPI 3.0."""
        return made

    return document


def make_document(*, version: str, origin: str) -> dict[str, Any]:
    all_frames = (*REQUESTS, *EVENTS)
    _, components = msgspec.json.schema_components(all_frames, ref_template=_REFERENCE)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Chatty",
            "version": version,
            "description": "The WebSocket of an end-to-end encrypted chat server; its HTTP side is /openapi.json.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"this": _server(origin)},
        "channels": {"socket": _channel(all_frames)},
        "operations": {**{_operation_name(one): _request(one) for one in REQUESTS}, "events": _events()},
        "components": {
            "messages": {one.__name__: _message(one) for one in all_frames},
            "schemas": portable(components),
        },
    }


def _server(origin: str) -> dict[str, Any]:
    parts = urlsplit(origin)
    return {"host": parts.netloc, "protocol": "wss" if parts.scheme == "https" else "ws"}


def _channel(all_frames: tuple[Frame, ...]) -> dict[str, Any]:
    return {
        "address": gateway.path,
        "description": " ".join(_DESCRIPTION.split()),
        "servers": [{"$ref": "#/servers/this"}],
        "messages": {one.__name__: {"$ref": f"#/components/messages/{one.__name__}"} for one in all_frames},
        "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
    }


def _operation_name(one: Frame) -> str:
    return f"request_{frame_type(one)}"


def _request(one: Frame) -> dict[str, Any]:
    """The server is what the document describes: it receives requests and sends events."""
    answer = ANSWERS.get(one, frames.Done)
    return {
        "action": "receive",
        "channel": _SOCKET,
        "summary": _summary(one),
        "messages": [_in_channel(one)],
        "reply": {"channel": _SOCKET, "messages": [_in_channel(answer), _in_channel(frames.Error)]},
    }


def _events() -> dict[str, Any]:
    answers = {frames.Done, *ANSWERS.values()}
    unasked = [_in_channel(one) for one in EVENTS if one not in answers]
    return {"action": "send", "channel": _SOCKET, "summary": "What comes unasked.", "messages": unasked}


def _in_channel(one: Frame) -> dict[str, str]:
    return {"$ref": f"#/channels/socket/messages/{one.__name__}"}


def _message(one: Frame) -> dict[str, Any]:
    payload = {"$ref": _REFERENCE.format(name=one.__name__)}
    return {"name": frame_type(one), "title": one.__name__, "summary": _summary(one), "payload": payload}


def frame_type(one: Frame) -> str:
    """What stands in the frame's `type`."""
    return str(one.__struct_config__.tag)


def _summary(one: Frame) -> str:
    return " ".join(inspect.cleandoc(vars(one).get("__doc__") or "").split())
