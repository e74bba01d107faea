"""Over a real connection: every answer is what /openapi.json says, and what is wrong is told as a problem."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import trio

from tests.server.app_fixtures import open_chat
from tests.server.conftest import RunningServer


def schema_of(document: dict[str, Any], path: str, method: str, answer: httpx.Response) -> dict[str, Any]:
    """The schema of this very answer: its status and media type must be declared."""
    declared = document["paths"][path][method]["responses"][str(answer.status_code)]["content"]
    media_type = answer.headers["content-type"]
    return {**declared[media_type]["schema"], "components": document["components"]}


def check(document: dict[str, Any], path: str, answer: httpx.Response) -> None:
    schema = schema_of(document, path, answer.request.method.lower(), answer)
    jsonschema.Draft202012Validator(schema).validate(answer.json())


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (item for key, item in value.items() if key == "$ref")
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


async def test_answers_are_what_openapi_says(running: RunningServer) -> None:
    document = (await running.http.get("/openapi.json")).json()
    ann = running.person()
    check(document, "/v1/salt", await running.http.post("/v1/salt", json={"user": ann.user}))
    check(document, "/v1/register", await ann.register())
    check(document, "/v1/register", await running.person().register())
    check(document, "/v1/login", await ann.log_in())
    check(document, "/v1/login", await ann.log_in(signature="A" * 86))
    check(document, "/v1/token", await ann.refresh(ann.tokens["refresh_token"]))
    check(document, "/v1/token", await ann.refresh("nothing"))
    for path in ("/v1/account", "/v1/devices", "/v1/device"):
        check(document, path, await ann.ask("GET", path))
        check(document, path, await running.http.get(path))
    for path in ("/v1/server", "/v1/jwks", "/livez", "/readyz", "/openapi.json"):
        check(document, path, await running.http.get(path))
    name = {"name": "phone"}
    check(document, "/v1/devices/{device}/name", await ann.ask("PUT", "/v1/devices/DEVICE-NONE/name", json=name))
    check(document, "/v1/logout", await ann.ask("POST", "/v1/logout", json={}))


async def test_every_reference_in_openapi_leads_somewhere(running: RunningServer) -> None:
    document = (await running.http.get("/openapi.json")).json()
    found = set(references(document))
    assert found
    names = {reference.removeprefix("#/components/schemas/") for reference in found}
    assert names <= document["components"]["schemas"].keys()


async def test_a_body_without_a_length_is_bounded_too(running: RunningServer) -> None:
    """It does not end; the answer comes all the same."""
    url = running.http.base_url
    stream = await trio.open_tcp_stream(url.host, url.port or 0)
    async with stream:
        await stream.send_all(
            b"POST /v1/salt HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(101):
            await stream.send_all(b"3e8\r\n" + b"x" * 1_000 + b"\r\n")
        with trio.fail_after(10):
            answer = await stream.receive_some()
    assert answer.startswith(b"HTTP/1.1 413")


async def test_a_body_where_none_belongs_is_refused(running: RunningServer) -> None:
    answer = await running.http.request("GET", "/v1/server", content=b"{}")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


async def test_a_trailing_or_doubled_slash_is_another_path(running: RunningServer) -> None:
    for path in ("/v1/server/", "/v1//server"):
        answer = await running.http.get(f"{str(running.http.base_url).rstrip('/')}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path


async def test_a_path_that_is_not_utf8_is_a_bad_request(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    answer = await ann.ask("DELETE", "/v1/devices/%ff%fe%fd%fc%ff%fe%fd%fc")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


async def test_the_metrics_count_templates_and_know_nobody(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    device = ann.tokens["device"]
    await ann.ask("DELETE", f"/v1/devices/{device}")
    await running.http.get(f"/{device}")
    text = (await running.http.get("/metrics")).text
    assert 'route="/v1/devices/{device}",status="200"' in text
    assert device not in text


async def test_the_page_says_what_runs_here(running: RunningServer) -> None:
    answer = await running.http.get("/")
    assert "example.org" in answer.text
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_readiness_names_the_dependency_that_is_gone(running: RunningServer) -> None:
    assert (await running.http.get("/readyz")).status_code == 200
    await running.pool.close()
    answer = await running.http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"] == [{"name": "database", "is_ready": False, "reason": "store_unavailable"}]
    assert (await running.http.get("/livez")).status_code == 200
    refused = await running.http.post("/v1/token", json={"refresh_token": "x"})
    assert refused.status_code == 401, "what needs no database is still answered"


async def test_many_at_once_each_get_their_own_request_id(running: RunningServer) -> None:
    seen: list[str] = []

    async def ask() -> None:
        answer = await running.http.get("/v1/nothing")
        assert answer.json()["request_id"] == answer.headers["X-Request-Id"]
        seen.append(answer.headers["X-Request-Id"])

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask)
    assert len(set(seen)) == 50


@pytest.mark.parametrize(("proxies", "is_believed"), [("", False), ("198.51.100.1", False), ("127.0.0.0/8", True)])
async def test_only_a_trusted_proxy_names_a_request(
    database: str, tmp_path: Path, proxies: str, is_believed: bool
) -> None:
    """For it stands in the audit log for ever."""
    async with open_chat(database, tmp_path, trusted_proxies=proxies) as chat:
        ann = await chat.sign_up("ann")
        answer = await ann.person.ask("POST", "/v1/logout", json={}, headers={"X-Request-Id": "chosen-by-somebody"})
        assert (answer.status_code, answer.headers["X-Request-Id"] == "chosen-by-somebody") == (200, is_believed)
        kept = await chat.rows("SELECT request_id FROM audit WHERE action = 'device.revoked'")
        assert kept == [(answer.headers["X-Request-Id"],)]
