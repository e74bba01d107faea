"""After a deletion: what identifies the user is looked for in all that the database keeps, and found where the receipt says.

In a dump at once; and in every byte of the data directory, once PostgreSQL has let go of what was deleted: VACUUM FULL, a switch
of the write-ahead log, and two checkpoints that remove the old log instead of using its files again.
"""

import base64
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
import trio

from chatty.demo.needles import Needle, Secret, make_needles
from chatty.demo.search import list_files, search
from chatty.demo.storage import Storage
from chatty.services.deletions import KEPT
from chatty.store.embedded import EmbeddedServer, cluster, open_embedded
from chatty.store.schema import upgrade
from tests.postgres_fixtures import make_open_directory, memory_directory
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.deleting import FACTORS, delete, until_erased
from tests.server.wire_client import ciphertext, open_live_socket
from tests.server.wire_people import WireDevice, WireRoom, sign_in

NAME = "annabelle"
# The file of each relation, by the table that it belongs to: indexes and long values too.
_FILES = """SELECT pg_relation_filepath(c.oid), coalesce(t.relname, i.relname, c.relname) FROM pg_class c
LEFT JOIN pg_class t ON t.reltoastrelid = c.oid
LEFT JOIN (SELECT x.indexrelid, coalesce(o.relname, y.relname) AS relname FROM pg_index x JOIN pg_class y ON y.oid = x.indrelid
 LEFT JOIN pg_class o ON o.reltoastrelid = y.oid) i ON i.indexrelid = c.oid
WHERE pg_relation_filepath(c.oid) IS NOT NULL"""
Found = dict[str, set[str]]


@dataclass(kw_only=True)
class Kept:
    """The database's server, with a look at all that it has."""

    server: EmbeddedServer
    scratch: Path
    secrets: dict[str, Secret] = field(default_factory=dict)

    def look_for(self, name: str, *values: str | bytes) -> None:
        for number, value in enumerate(values):
            key = f"{name} {number}" if len(values) > 1 else name
            self.secrets[key] = Secret(name=key, value=value)

    @property
    def needles(self) -> list[Needle]:
        return [needle for secret in self.secrets.values() for needle in make_needles(secret)]

    async def in_dump(self) -> Found:
        """Tables in whose part of a dump each secret stands."""
        storage = Storage(
            self.server.places, data_directory=self.scratch, log=self.server.log_file, scratch=self.scratch
        )
        dump = await storage.dump()
        folder = self.scratch / "tables"
        files = await trio.to_thread.run_sync(_split, dump, folder)
        return await self._search({file: file.stem for file in files})

    async def in_directory(self) -> Found:
        """Tables in whose files each secret stands; elsewhere, the file."""
        files = await trio.to_thread.run_sync(list_files, self.server.places.root)
        tables = {self.server.data_directory / path: table for path, table in await self.ask(_FILES)}
        return await self._search({file: tables.get(_first_segment(file), str(file)) for file in files})

    async def _search(self, places: Mapping[Path, str]) -> Found:
        searched = await trio.to_thread.run_sync(search, "all", list(places), self.needles)
        assert searched.file_count > 10
        found: defaultdict[str, set[str]] = defaultdict(set)
        for one in searched.found:
            found[one.needle.secret.name].add(places[one.file])
        return dict(found)

    async def forget(self) -> None:
        """PostgreSQL lets go of what was deleted."""
        for sql in ("VACUUM (FULL)", "SELECT pg_switch_wal()", "CHECKPOINT", "CHECKPOINT"):
            await self.ask(sql)

    async def ask(self, sql: str) -> list[tuple[str, str]]:
        """Outside a transaction, as who may do everything."""
        address = cluster.address(self.server.places, user=cluster.superuser, dbname=cluster.database)

        def ask() -> list[tuple[str, str]]:
            with psycopg.connect(address, autocommit=True) as connection:
                cursor = connection.execute(sql.encode())
                return cursor.fetchall() if cursor.description is not None else []

        return await trio.to_thread.run_sync(ask)


def _split(dump: Path, folder: Path) -> list[Path]:
    """A file for each table's rows, and one for all else."""
    folder.mkdir(exist_ok=True)
    parts: defaultdict[str, bytes] = defaultdict(bytes)
    table = "everything else"
    for line in dump.read_bytes().splitlines(keepends=True):
        if line.startswith(b"COPY public."):
            table = line.split()[1].removeprefix(b"public.").decode()
        parts[table] += line
        if line == b"\\.\n":
            table = "everything else"
    files = [folder / f"{table}.sql" for table in parts]
    for file, content in zip(files, parts.values(), strict=True):
        file.write_bytes(content)
    return files


def _first_segment(file: Path) -> Path:
    """A relation's further files are called like the first, with a suffix: 16389_vm, 16389.1."""
    return file.parent / file.name.split(".")[0].split("_")[0]


@contextmanager
def roomy_directory() -> Iterator[Path]:
    with make_open_directory("chatty-erased-", parent=memory_directory()) as directory:
        yield directory


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    settings = {"fsync": "off", "wal_recycle": "off", "autovacuum": "off"}
    with roomy_directory() as directory:
        async with open_embedded(directory / "postgres", settings=settings) as server:
            await upgrade(server.address)
            yield Kept(server=server, scratch=tmp_path)


@pytest.fixture
async def chat(kept: Kept, tmp_path: Path) -> AsyncIterator[RunningApp]:
    async with open_chat(kept.server.address, tmp_path) as chat:
        yield chat


def random_text(size_bytes: int = 33) -> str:
    return base64.b64encode(secrets.token_bytes(size_bytes)).decode()


async def live(chat: RunningApp, kept: Kept) -> tuple[WireDevice, WireDevice, WireRoom]:
    """annabelle does a little of everything. Her phone signs no room event, so all of it is to go; of her laptop a part stays."""
    laptop = await chat.sign_up(NAME, one_time_keys_count=2, with_fallback=True)
    phone = await sign_in(laptop, one_time_keys_count=2, with_fallback=True)
    bob, cid = await chat.sign_up_all("bob", "cid")
    room, own = await laptop.create_room(bob, cid), await laptop.create_room()
    await own.invite(laptop, cid)
    texts, sessions = [ciphertext(3) for _ in range(3)], [random_text(32)[:43] for _ in range(2)]
    for place, session_id in ((room, sessions[0]), (own, sessions[1])):
        epoch = (await phone.get(f"/v1/rooms/{place.id}/members"))["epoch"]
        async with open_live_socket(phone) as socket:
            for text in texts:
                await socket.send(place.id, text, epoch=epoch, session_id=session_id)
    await phone.send_to_devices(bob, text=(to_bob := random_text()))
    await bob.send_to_devices(laptop, phone, text=(to_ann := random_text()))
    await laptop.answer("PUT", f"/v1/blocks/{cid.user}")
    recovery, identity = secrets.token_bytes(40), secrets.token_bytes(40)
    await chat.execute(_WRAPPED, recovery, identity, laptop.user)
    await laptop.answer("PUT", f"/v1/devices/{laptop.device}/name", {"name": "a most private name"})
    factors = [secrets.token_bytes(40) for _ in range(4)]
    await laptop.answer("POST", "/v1/totp", {})
    code, token, public_key, wrapped = factors
    passkey = random_text()
    await chat.execute(FACTORS, laptop.user, code, token, passkey, public_key, "a most private key", wrapped)
    kept.look_for("second factor", *factors, passkey, "a most private key")
    [(totp,)] = await chat.rows("SELECT secret_sealed FROM totp_secrets")
    kept.look_for("authenticator app", bytes(totp))
    kept.look_for("user name", NAME)
    kept.look_for("own room", own.id)
    kept.look_for("identity key", laptop.identity_key)
    for name, device in (("laptop", laptop), ("phone", phone)):
        kept.look_for(f"{name}'s id", device.device)
        kept.look_for(f"{name}'s Ed25519 key", device.olm.ed25519)
        kept.look_for(f"{name}'s Curve25519 key", device.olm.curve25519)
        kept.look_for(f"{name}'s key", *await keys_of(chat, device))
        [(family, thumbprint)] = await chat.rows(_FAMILY, device.device)
        kept.look_for(f"{name}'s log-in session", family)
        kept.look_for(f"{name}'s thumbprint", thumbprint)
    kept.look_for("Megolm session", *sessions)
    kept.look_for("ciphertext", *texts)
    kept.look_for("message between devices", to_bob, to_ann)
    kept.look_for("wrapped secret", recovery, identity)
    kept.look_for("device name", "a most private name")
    kept.look_for("control", bob.olm.ed25519)
    return laptop, bob, room


_FAMILY = (
    "SELECT family_id, dpop_thumbprint FROM refresh_families JOIN devices USING (device_number) WHERE device_id = %s"
)
_WRAPPED = "UPDATE users SET wrapped_recovery = %s, wrapped_identity = %s WHERE user_id = %s"
_KEYS = """SELECT key_json::jsonb->>'key' FROM {table} JOIN devices USING (device_number) WHERE device_id = %s"""


async def keys_of(chat: RunningApp, device: WireDevice) -> list[str]:
    tables = ("one_time_keys", "fallback_keys")
    return [key for table in tables for (key,) in await chat.rows(_KEYS.format(table=table), device.device)]


IN_ROOMS = {"bodies", "rooms"}
EXPECTED = {
    "user name": {"users", "timeline", "audit"} | IN_ROOMS,
    "identity key": {"users"} | IN_ROOMS,
    "laptop's id": {"devices", "audit"} | IN_ROOMS,
    "laptop's Ed25519 key": {"devices"},
    "laptop's log-in session": {"audit"},
    "phone's id": {"audit"},
    "phone's log-in session": {"audit"},
    "control": {"devices"},
}


async def test_what_identifies_a_deleted_user_is_found_only_where_the_receipt_says(
    chat: RunningApp, kept: Kept
) -> None:
    laptop, bob, room = await live(chat, kept)
    for sql in ("ANALYZE", "CHECKPOINT"):
        await kept.ask(sql)
    for found in (await kept.in_dump(), await kept.in_directory()):
        assert kept.secrets.keys() - found.keys() == set()
    await until_erased(chat.http, await delete(laptop))
    assert await kept.in_dump() == EXPECTED
    await kept.forget()
    assert await kept.in_directory() == EXPECTED
    assert {table for name in EXPECTED.keys() - {"control"} for table in EXPECTED[name]} <= KEPT.keys()
    await bob.position(room.id)
    async with open_live_socket(bob) as socket:
        await socket.send(room.id, ciphertext(), epoch=(await bob.get(f"/v1/rooms/{room.id}/members"))["epoch"])
