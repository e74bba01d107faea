"""`chatty demo` as a person starts it, and the search at its end, against a real database with secrets planted in it."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from hashlib import sha512
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import trio
from rich.cells import cell_len
from rich.console import Console

from chatty.cli import run_server
from chatty.config import Settings
from chatty.demo import story
from chatty.demo.audit import audit
from chatty.demo.needles import Secret
from chatty.demo.report import Hit, NotSearched, PlaceSearched, Report, Search
from chatty.demo.run import play
from chatty.demo.stage import Stage, free_port
from chatty.demo.storage import Storage
from chatty.demo.transcript import Transcript
from chatty.errors import BadConfiguration
from chatty.ids import Seq
from chatty.store.embedded import open_embedded
from chatty.store.schema import upgrade
from chatty.wire.accounts import ServerInfo
from chatty.wire.frames import Generation

COMMAND = [sys.executable, "-c", "from chatty.cli import main; main()", "demo"]
DOOR = 'Käse "kuchen", sagte Zoë – it\'s the password at the door'
SLIP = "naïve: „Grüße“ from a careless log call"
TEXT, LOGGED = Secret(name="text", value=DOOR), Secret(name="log line", value=SLIP)
KEY = Secret(name="bytea", value=sha512(b"a key").digest())
CIPHERTEXT = sha512(b"a message").digest() * 7
INFO = ServerInfo(
    server_name="demo",
    origin="http://127.0.0.1:1",
    rp_id="127.0.0.1",
    version="1",
    generation=Generation(number=Seq(1), id="first"),
    registration="open",
    key_derivation=[],
)


@pytest.fixture
async def stage(open_directory: Path) -> AsyncIterator[Stage]:
    """A real database with one message in it, and a log; no server runs."""
    data, scratch, log = open_directory / "data", open_directory / "devices", open_directory / "server.log"
    for folder in (data, scratch):
        folder.mkdir(mode=0o711)
    log.write_text(json.dumps({"event": "server.started", "origin": INFO.origin}) + "\n")
    async with open_embedded(data / "postgres", settings={"fsync": "off"}) as postgres:
        await upgrade(postgres.address)
        await plant(postgres.address, "INSERT INTO bodies VALUES (1, 1, %s)", CIPHERTEXT)
        storage = Storage(postgres.places, data_directory=data, log=log, scratch=scratch)
        yield Stage(origin=INFO.origin, info=INFO, scratch=scratch, storage=storage)


async def plant(address: str, statement: str, value: object) -> None:
    def work() -> None:
        with psycopg.connect(address) as connection:
            connection.execute(statement, [value])

    await trio.to_thread.run_sync(work)


async def looked_for(stage: Stage) -> Search:
    store = stage.scratch / "anna-laptop.sealed"
    store.write_bytes(b"SQLite format 3\0")
    return await audit(stage, [TEXT, KEY, LOGGED], ciphertext=CIPHERTEXT, stores=[store])


async def test_what_is_planted_in_a_text_column_a_bytea_and_a_log_line_is_found(stage: Stage) -> None:
    assert stage.storage is not None
    before = await looked_for(stage)
    assert before.found == []
    assert before.is_clean
    address = stage.storage.address
    # 4 kB that PostgreSQL compresses: in the data directory no longer readable, in the dump again.
    filler = "In the middle of a text that is long and repeats itself. " * 35
    to_device = (
        "INSERT INTO mailbox (device_number, sender_device_number, n, kind, content) VALUES (1, 1, 1, 'kind', %s)"
    )
    await plant(address, to_device, json.dumps({"text": f"{filler}{DOOR}{filler}"}))
    await plant(address, "INSERT INTO sealed_keys (purpose, version, sealed) VALUES ('planted', 1, %s)", KEY.value)
    with stage.storage.log.open("a") as log:
        log.write(json.dumps({"event": "message.sent", "text": f"she wrote {SLIP}"}) + "\n")
    after = await looked_for(stage)
    assert not after.is_clean
    assert {(hit.secret, hit.place) for hit in after.found} >= {
        ("text", "database dump"),
        ("bytea", "database dump"),
        ("bytea", "data directory, WAL included"),
        ("log line", "server's logs, all levels"),
    }
    [logged] = [hit for hit in after.found if hit.secret == "log line"]
    assert (logged.form, Path(logged.file).name) == ("JSON, escaped", "server.log")


async def test_a_search_that_does_not_find_its_control_is_no_proof(tmp_path: Path) -> None:
    store = tmp_path / "anna-laptop.sealed"
    store.write_bytes(b"no database at all")
    stage = Stage(origin=INFO.origin, info=INFO, scratch=tmp_path)
    search = await audit(stage, [TEXT], ciphertext=b"", stores=[store])
    assert search.found == []
    assert [place.is_control_found for place in search.places] == [False]
    assert not search.is_clean


@contextmanager
def folder_for_temporaries(open_directory: Path) -> Iterator[Path]:
    """What the demo leaves behind is there, or among the processes that know this folder."""
    folder = open_directory / "t"
    folder.mkdir(mode=0o711)
    yield folder
    assert list(folder.iterdir()) == []
    assert processes_that_mention(folder) == []


def processes_that_mention(folder: Path) -> list[str]:
    """By working directory, command line or environment: the server, PostgreSQL and the devices all do."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            known = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if str(folder) in known.decode(errors="replace") or (process / "cwd").readlink().is_relative_to(folder):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue  # it has ended, or is not ours
    return found


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(folder), "CHATTY_SERVER_NAME": "the.demo.takes.none.of.our.settings"}


async def run_demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return await trio.run_process(
        [*COMMAND, *arguments], capture_stdout=True, capture_stderr=True, check=False, env=environment(folder)
    )


def check_story(report: dict[str, Any]) -> None:
    messages = report["messages"]
    texts = {story.invitation, story.promise, story.cake, story.music, story.speech}
    texts |= {story.slip, story.question, story.relief}
    assert {message["text"] for message in messages} == texts
    assert len(messages) == len(texts)
    assert all(len(message["read_by"]) == 2 for message in messages)
    assert {message["room"] for message in messages} == {"direct", "group"}
    assert [device["name"] for device in report["devices"]] == ["Anna's laptop", "Ben's phone", "Ben's tablet"]
    assert report["killed_device"] == "Ben's phone"
    assert report["caught_up_count"] == 3


async def test_the_demo_plays_searches_and_leaves_nothing_behind(open_directory: Path) -> None:
    with folder_for_temporaries(open_directory) as folder:
        done = await run_demo(folder, "--json")
        assert (done.returncode, done.stderr) == (0, b"")
    report = json.loads(done.stdout)
    check_story(report)
    assert report["is_clean"] is True
    assert report["server"]["is_own"] is True
    # What is stored is another thing than what was said, and longer.
    for message in report["messages"]:
        assert message["stored"]["algorithm"] == "m.megolm.v1.aes-sha2"
        assert message["stored"]["body_bytes"] > len(message["text"].encode())
    search = report["search"]
    assert search["found"] == []
    assert [place["place"] for place in search["places"] if place["is_control_found"]] == [
        "database dump",
        "data directory, WAL included",
        "server's logs, all levels",
        "server's metrics",
        "devices' own stores (sealed)",
    ]
    data_directory = search["places"][1]
    assert data_directory["byte_count"] > 16 * 1_048_576  # one segment of the write-ahead log alone
    assert {"Anna's password", "Ben's password", "Anna's laptop: identity key"} <= set(search["secrets"])
    assert {"Ben's phone: device's signing key", "Ben's tablet: refresh token"} <= set(search["secrets"])
    assert sum(": message key" in name for name in search["secrets"]) == 4  # two rooms, two who sent in each


@asynccontextmanager
async def running(database: str, data: Path) -> AsyncIterator[str]:
    origin = f"http://127.0.0.1:{free_port()}"
    port = int(origin.rsplit(":", 1)[1])
    settings = Settings(data_dir=data, port=port, public_origin=origin, registration="open")
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(run_server, settings, address=database))
        yield origin
        nursery.cancel_scope.cancel()


async def test_against_a_running_server_it_says_what_it_could_not_search(database: str, tmp_path: Path) -> None:
    width = 80
    shown = io.StringIO()
    async with running(database, tmp_path) as origin:
        report = await play(origin, Transcript(Console(file=shown, width=width)))
    assert report is not None
    check_story(json.loads(msgspec.json.encode(report)))
    assert report.is_clean
    assert not report.server.is_own
    assert all(message.stored is None for message in report.messages)
    unsearched = [one.place for one in report.search.not_searched]
    assert unsearched == ["database dump", "data directory", "server's logs", "memory and network"]
    text = " ".join(shown.getvalue().split())
    assert "Not searched: database dump (the server is not ours: the demo has no access to it)." in text
    assert "What it stores of it cannot be shown" in text
    assert max(cell_len(line) for line in shown.getvalue().splitlines()) <= width


async def test_a_server_under_another_address_is_refused_with_the_right_one(database: str, tmp_path: Path) -> None:
    async with running(database, tmp_path) as origin:
        with pytest.raises(BadConfiguration, match=f"use --url {origin}"):
            await play(origin.replace("127.0.0.1", "localhost"), Transcript(Console(quiet=True)))


async def test_without_a_server_at_the_address_it_exits_with_3(open_directory: Path) -> None:
    with folder_for_temporaries(open_directory) as folder:
        done = await run_demo(folder, "--url", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 3
    assert done.stderr.startswith(b"server_unreachable: ")


async def test_ctrl_c_in_the_middle_leaves_no_process_and_no_file_behind(open_directory: Path) -> None:
    with folder_for_temporaries(open_directory) as folder:
        process = await trio.lowlevel.open_process(
            COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(folder), start_new_session=True
        )
        assert process.stdout is not None
        assert process.stderr is not None
        said = b""
        with trio.fail_after(60):
            while "A direct room" not in said.decode(errors="replace"):
                said += (part := await process.stdout.receive_some())
                assert part, await process.stderr.receive_some()
            # Something is there to be left behind.
            assert len(processes_that_mention(folder)) >= 5
            assert list(folder.iterdir()) != []
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole process group
            assert await process.wait() == 130
            assert await process.stderr.receive_some() == b""
        for stream in (process.stdout, process.stderr):
            await stream.aclose()


FOUND = Hit(secret="Ben's password", form="hex", place="database dump", file="database.sql", offset=1_234)


def searched(*, is_control_found: bool = True, found: tuple[Hit, ...] = ()) -> Search:
    place = PlaceSearched(
        place="database dump",
        file_count=1,
        byte_count=100_000,
        found_count=len(found),
        control="a message's ciphertext",
        is_control_found=is_control_found,
    )
    unsearched = [NotSearched(place="memory and network", reason="the demo reads files")]
    return Search(
        secrets=["it"], forms=["hex"], needle_count=1, places=[place], not_searched=unsearched, found=list(found)
    )


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    ("search", "verdict"),
    [
        (searched(), "None of them was found"),
        (searched(found=(FOUND,)), "Ben's password, as hex, in the database dump: database.sql, byte 1,234"),
        (searched(is_control_found=False), "this search proves nothing"),
    ],
)
def test_the_verdict_says_what_was_found_where(width: int, search: Search, verdict: str) -> None:
    shown = io.StringIO()
    Transcript(Console(file=shown, width=width)).search(search)
    text = shown.getvalue()
    assert verdict in " ".join(text.replace("│", " ").split())
    assert "Not searched: memory and network" in text
    assert max(len(line) for line in text.splitlines()) <= width


def test_the_shape_of_the_json_is_stable() -> None:
    assert Report.__struct_fields__ == (
        *("is_clean", "server", "devices", "messages", "caught_up_count", "killed_device", "search", "duration_s"),
    )
    assert Search.__struct_fields__ == ("secrets", "forms", "needle_count", "places", "not_searched", "found")
