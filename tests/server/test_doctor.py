"""`chatty-admin doctor` on real installations: well and sick ones, with the server and the database up or down."""

import datetime
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click.testing
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from chatty.admin.doctor import look_at_certificate
from chatty.crypto.backups import ArchiveWriter, BackupKey, Header, make_recipient
from tests.server.app_fixtures import RunningApp
from tests.server.commands import as_url, chatty_admin

pytestmark = pytest.mark.usefixtures("logging_as_before")


def found_in(result: click.testing.Result) -> dict[str, list[dict[str, Any]]]:
    answer = json.loads(result.stdout)
    assert answer["is_well"] == (result.exit_code == 0)
    found: dict[str, list[dict[str, Any]]] = {}
    for one in answer["findings"]:
        found.setdefault(one["check"], []).append(one)
        assert one["mend"] or one["state"] in ("ok", "skipped")
    return found


async def test_beside_a_running_server_it_looks_at_everything(chat: RunningApp) -> None:
    """This PostgreSQL is one for tests: it syncs nothing to the disk, and that is what the doctor sees."""
    data_dir, url = chat.settings.data_dir, as_url(chat.database)
    result = await chatty_admin(data_dir, "doctor", "--json", CHATTY_DATABASE_URL=url)
    found = found_in(result)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0].startswith("error not_well: postgresql_settings: fsync is off")
    assert result.stderr.splitlines()[-1].startswith("next: ALTER SYSTEM SET fsync = on")
    for check in (
        "configuration",
        "database",
        "clock",
        "postgresql_version",
        "migrations",
        "key_ages",
        "master_key",
        "tls",
    ):
        assert [one["state"] for one in found[check]] == ["ok"], check
    assert {one["state"] for one in found["permissions"]} == {"ok"}
    (data_dir / "master.key").chmod(0o644)
    table = await chatty_admin(data_dir, "doctor", CHATTY_DATABASE_URL=url)
    assert "chmod 600" in table.stdout
    await chat.execute("DELETE FROM schema_version WHERE version = (SELECT max(version) FROM schema_version)")
    behind = found_in(await chatty_admin(data_dir, "doctor", "--json", CHATTY_DATABASE_URL=url))
    assert [(one["state"], one["mend"]) for one in behind["migrations"]] == [("failed", "chatty-admin db upgrade")]


async def test_with_all_down_it_says_so_and_looks_at_the_rest(tmp_path: Path) -> None:
    url = f"postgresql:///chatty?host={tmp_path}"
    found = found_in(await chatty_admin(tmp_path, "doctor", "--json", CHATTY_DATABASE_URL=url))
    assert [one["state"] for one in found["database"]] == ["failed"]
    assert {"configuration", "disk", "permissions", "tls"} <= found.keys()
    assert "migrations" not in found
    fresh = found_in(await chatty_admin(tmp_path / "none", "doctor", "--json"))
    assert [(one["state"], one["mend"]) for one in fresh["database"]] == [("skipped", "chatty up")]
    assert not (tmp_path / "none").exists()
    wrong = found_in(await chatty_admin(tmp_path, "doctor", "--json", CHATTY_PORT="many"))
    assert [one["state"] for one in wrong["configuration"]] == ["failed"]
    assert "CHATTY_PORT" in wrong["configuration"][0]["detail"]


async def test_a_look_makes_no_database_and_what_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    """A restore would refuse a database that was made by a look."""
    for words in ("db status", "db upgrade --dry-run", "log errors", "audit list", "users list"):
        result = await chatty_admin(tmp_path, *words.split())
        assert (result.exit_code, result.stderr.partition(":")[0]) == (3, "error database_missing"), words
        assert result.stderr.splitlines()[-1] == "next: chatty up"
    fresh = found_in(await chatty_admin(tmp_path, "doctor", "--json"))
    assert [(one["state"], one["mend"]) for one in fresh["database"]] == [("skipped", "chatty up")]
    assert list(await trio.Path(tmp_path).iterdir()) == []
    refused = tmp_path / ("d" * 300)  # by the system, as another account's is
    unread = found_in(await chatty_admin(refused, "doctor", "--json"))
    assert {check: [one["state"] for one in unread[check]] for check in ("database", "permissions", "backups")} == {
        "database": ["failed"],
        "permissions": ["failed"],
        "backups": ["failed"],
    }
    status = await chatty_admin(refused, "db", "status")
    assert (status.exit_code, status.stderr.partition(":")[0]) == (3, "error store_unavailable")


async def test_it_knows_the_age_of_this_servers_newest_backup(tmp_path: Path) -> None:
    async def backups(interval_s: float) -> tuple[str, str]:
        environment = {"CHATTY_BACKUP_INTERVAL_S": str(interval_s)}
        [one] = found_in(await chatty_admin(tmp_path, "doctor", "--json", **environment))["backups"]
        return one["state"], one["detail"]

    assert (await backups(0))[0] == "skipped"
    archive(tmp_path, server="elsewhere.example", hours=0)
    assert await backups(3_600) == ("warning", "there is none of this server")
    archive(tmp_path, server="localhost", hours=4)
    archive(tmp_path, server="localhost", hours=3)
    assert await backups(3_600) == ("warning", "the newest is 3.0 hours old")
    assert [(await backups(interval_s))[0] for interval_s in (0, 7_200)] == ["ok", "ok"]


def archive(data_dir: Path, *, server: str, hours: float) -> None:
    """With nothing in it."""
    header = Header(
        server=server,
        generation=1,
        generation_id="g",
        schema_version=1,
        chatty_version="1",
        time=int((time.time() - hours * 3_600) * 1_000),
    )
    folder = data_dir / "backups"
    folder.mkdir(exist_ok=True)
    with (folder / f"{server}-{hours}.chatty-backup").open("wb") as file:
        ArchiveWriter(file, header, BackupKey(recipient=make_recipient()[1])).end()


@contextmanager
def https_server(directory: Path, *, days: float) -> Iterator[tuple[str, ssl.SSLContext]]:
    """Its origin, and a context that trusts its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = (
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")]),
        datetime.datetime.now(datetime.UTC),
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = directory / "server.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem.write_bytes(certificate.public_bytes(Encoding.PEM) + secret)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(pem)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=_shake_hands, args=(listener, serving))
    thread.start()
    trusting = ssl.create_default_context(cadata=certificate.public_bytes(Encoding.PEM).decode())
    try:
        yield f"https://localhost:{listener.getsockname()[1]}", trusting
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def _shake_hands(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        with plain:
            try:
                context.wrap_socket(plain, server_side=True).close()
            except OSError:
                continue  # whoever does not trust it hangs up


@pytest.mark.parametrize(("days", "state"), [(90.0, "ok"), (7.5, "warning")])
def test_it_sees_a_certificate_as_a_client_does(tmp_path: Path, days: float, state: str) -> None:
    with https_server(tmp_path, days=days) as (origin, trusting):
        trusted = look_at_certificate(origin, context=trusting)
        stranger = look_at_certificate(origin)
    assert (trusted.state, f"{days:.0f} days" in trusted.detail or days < 8) == (state, True)
    assert (stranger.state, "self-signed" in stranger.detail) == ("failed", True)
    gone = look_at_certificate(origin, context=trusting)
    assert (gone.state, "cannot be reached" in gone.detail) == ("warning", True)
