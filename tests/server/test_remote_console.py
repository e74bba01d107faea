"""The console from elsewhere: an operator's own log-in by the SDK, what each role may, step-up, and whom the audit log names."""

import json
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import click.testing
import psycopg
import pytest
import trio

from chatty.admin import main
from chatty.services.permissions import CONSOLE, OPERATE, PERMISSIONS, console_permission
from chatty.store.connection import open_connection
from tests.server.sdk_people import open_origin, opener

pytestmark = pytest.mark.usefixtures("logging_as_before")
PASSWORD = "correct horse battery staple"


class Elsewhere:
    """One operator's machine."""

    def __init__(self, origin: str, database: str, home: Path, users: Mapping[str, str]) -> None:
        self.origin, self.database, self.home, self.users = origin, database, home, users

    async def say(self, *words: str, typed: str = "") -> click.testing.Result:
        runner = click.testing.CliRunner(env={"NO_COLOR": "1", "COLUMNS": "160", "XDG_STATE_HOME": str(self.home)})
        command = ["--server", self.origin, *words]
        return await trio.to_thread.run_sync(lambda: runner.invoke(main, command, input=typed))

    async def json(self, *words: str) -> dict[str, Any]:
        result = await self.say(*words, "--json")
        assert result.exit_code == 0, result.stderr
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    async def execute(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        def work() -> list[tuple[Any, ...]]:
            with psycopg.connect(self.database) as connection:
                done = connection.execute(sql, values)
                return done.fetchall() if done.description else []

        return await trio.to_thread.run_sync(work)

    async def role(self, name: str, role: str) -> None:
        await self.execute("UPDATE users SET role = %s WHERE user_id = %s", role, self.users[name])


@pytest.fixture
async def elsewhere(database: str, tmp_path: Path) -> AsyncIterator[Elsewhere]:
    """A server with ann and bob; ann is its owner."""
    async with open_origin(database, tmp_path) as origin:
        open_one, users = opener(origin, tmp_path), {}
        for name in ("ann", "bob"):
            async with open_one(name) as client:
                await client.register(name, PASSWORD)
                users[name] = f"@{name}:localhost"
        found = Elsewhere(origin, database, tmp_path / "home", users)
        await found.role("ann", "owner")
        yield found


async def test_an_operator_signs_in_from_elsewhere_and_the_log_names_them(elsewhere: Elsewhere) -> None:
    ann, bob = elsewhere.users["ann"], elsewhere.users["bob"]
    nobody = await elsewhere.say("users", "list")
    assert (nobody.exit_code, nobody.stderr.splitlines()) == (
        1,
        [
            "error not_signed_in: nobody is signed in to that server on this machine",
            f"next: chatty-admin --server {elsewhere.origin} login",
        ],
    )
    wrong = await elsewhere.say("login", "--user", ann, typed="another password entirely\n")
    assert (wrong.exit_code, wrong.stderr.split(":")[0]) == (1, "error login_refused")
    done = await elsewhere.say("login", "--user", ann, "--json", typed=f"{PASSWORD}\n")
    assert json.loads(done.stdout) == {"server": elsewhere.origin, "server_name": "localhost", "user": ann}
    kept = list((elsewhere.home / "chatty-admin").iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
    assert stat.S_IMODE((elsewhere.home / "chatty-admin").stat().st_mode) == 0o700

    assert {one["user"] for one in (await elsewhere.json("users", "list"))["users"]} == {ann, bob}
    assert (await elsewhere.json("status"))["server_name"] == "localhost"
    assert (await elsewhere.json("health"))["is_ready"]
    assert (await elsewhere.json("actors", "tree"))["name"] == "chatty"
    assert (await elsewhere.json("top"))["rates"]["messages_per_s"] == 0.0
    assert (await elsewhere.json("users", "lock", "--dry-run", bob))["is_dry_run"]
    await elsewhere.json("users", "lock", "--yes", bob)
    await elsewhere.json("actors", "restart", "--yes", "journal/group")
    await elsewhere.json("keys", "rotate", "signing")
    acts = await elsewhere.execute(
        "SELECT action, actor, device <> '', family <> '', address FROM audit"
        " WHERE action IN ('user.locked', 'actor.restarted', 'key.prepared') AND family <> '' ORDER BY audit_id"
    )
    assert acts == [
        (action, ann, True, True, "127.0.0.1") for action in ("user.locked", "actor.restarted", "key.prepared")
    ]

    await elsewhere.execute("UPDATE refresh_families SET stepped_up_at = now() - interval '1 day'")
    assert (await elsewhere.json("users", "list"))["users"]
    stale = await elsewhere.say("users", "unlock", bob)
    assert (stale.exit_code, stale.stderr.split(":")[0]) == (1, "error step_up_required")
    assert stale.stderr.splitlines()[-1] == f"next: chatty-admin --server {elsewhere.origin} login"
    await elsewhere.say("login", "--user", ann, typed=f"{PASSWORD}\n")
    await elsewhere.json("users", "unlock", bob)
    assert not (await elsewhere.json("logout"))["is_signed_in"]
    assert (await elsewhere.say("users", "list")).exit_code == 1


async def test_each_role_may_what_its_permissions_say(elsewhere: Elsewhere) -> None:
    ann, bob = elsewhere.users["ann"], elsewhere.users["bob"]
    await elsewhere.say("login", "--user", bob, typed=f"{PASSWORD}\n")
    wanted = {
        "status": {"owner", "admin", "moderator", "auditor"},
        "users list": {"owner", "admin", "moderator", "auditor"},
        f"users end-sessions --dry-run {ann}": {"owner", "admin", "moderator"},
        "users invite --dry-run": {"owner", "admin"},
        "actors restart --yes notices/typing": {"owner"},
        "keys rotate signing": {"owner"},
        "jobs list": {"owner", "admin", "moderator", "auditor"},
        "jobs pause statistics": {"owner"},
    }
    await elsewhere.role("ann", "user")
    may: dict[str, set[str]] = {words: set() for words in wanted}
    for role in ("owner", "admin", "moderator", "auditor", "user", "bot"):
        await elsewhere.role("bob", role)
        for words in wanted:
            result = await elsewhere.say(*words.split())
            assert (result.exit_code, "forbidden" in result.stderr) in ((0, False), (1, True)), (
                role,
                words,
                result.stderr,
            )
            if result.exit_code == 0:
                may[words].add(role)
    assert may == wanted
    await elsewhere.role("ann", "owner")
    await elsewhere.role("bob", "admin")
    above = await elsewhere.say("users", "lock", "--yes", ann)
    assert (above.exit_code, above.stderr.split(":")[0]) == (1, "error outranked")


_HOLD = "SELECT 1 FROM users WHERE user_id = %s FOR UPDATE"
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.mark.parametrize(
    "words",
    [
        "keys rotate signing",
        "jobs pause statistics",
        "jobs run statistics",
        "actors restart --yes notices/typing",
        "users delete --yes @bob:localhost",
    ],
)
async def test_who_loses_the_role_while_an_act_waits_for_its_locks_does_not_act(
    elsewhere: Elsewhere, words: str
) -> None:
    ann = elsewhere.users["ann"]
    await elsewhere.say("login", "--user", ann, typed=f"{PASSWORD}\n")
    [(before,)] = await elsewhere.execute("SELECT max(audit_id) FROM audit")
    said: list[click.testing.Result] = []

    async def act() -> None:
        said.append(await elsewhere.say(*words.split()))

    async with trio.open_nursery() as nursery, open_connection(elsewhere.database) as holding, holding.transaction():
        await holding.execute(_HOLD, (ann,))
        nursery.start_soon(act)
        with trio.fail_after(20):
            while await elsewhere.execute(_WAITING) == [(0,)]:  # noqa: ASYNC110
                await trio.sleep(0.02)  # the database has nothing to wait on
        await holding.execute("UPDATE users SET role = 'user' WHERE user_id = %s", (ann,))
    assert (said[0].exit_code, said[0].stderr.split(":")[0]) == (1, "error forbidden")
    assert await elsewhere.execute("SELECT action FROM audit WHERE audit_id > %s AND actor = %s", before, ann) == []


async def test_a_password_is_asked_for_once_more_on_a_terminal(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = elsewhere.users["ann"], elsewhere.users["bob"]
    await elsewhere.say("login", "--user", ann, typed=f"{PASSWORD}\n")
    await elsewhere.execute("UPDATE refresh_families SET stepped_up_at = now() - interval '1 day'")
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True, raising=False)
    done = await elsewhere.say("users", "lock", "--yes", bob, typed=f"{PASSWORD}\n")
    assert (done.exit_code, PASSWORD in done.output) == (0, False)


def test_what_is_not_listed_needs_the_owner() -> None:
    """Commands of a later version are closed until somebody has decided."""
    assert console_permission("shutdown") is OPERATE
    assert console_permission("rehearse users lock") is console_permission("users lock")
    assert {one.name for one in CONSOLE.values()} <= set(PERMISSIONS)
