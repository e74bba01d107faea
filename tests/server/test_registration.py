"""Who may register, from outside: the modes, invitations, approval, names, and what a stranger learns of them: nothing."""

import itertools
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click.testing
import httpx
import pytest
import trio

from chatty.services.registration import requests_a_name_max
from chatty.telemetry import configure_logging
from tests.people import Person, outcome
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.commands import as_url, chatty_admin
from tests.server.wire_people import ORIGIN, SERVER_NAME, WireDevice

pytestmark = pytest.mark.usefixtures("logging_as_before")


@asynccontextmanager
async def serving(database: str, folder: Path, mode: str, **changes: Any) -> AsyncIterator[RunningApp]:
    configure_logging("error")  # to stderr: the commands of these tests answer on stdout
    async with open_chat(database, folder, registration=mode, **changes) as chat:
        yield chat


def person(chat: RunningApp, name: str = "ann") -> Person:
    return Person(http=chat.http, name=name, server_name=SERVER_NAME, origin=ORIGIN)


async def run(data_dir: Path, *words: str, **environment: str) -> click.testing.Result:
    return await chatty_admin(data_dir, "users", *words, **environment)


async def console(chat: RunningApp, *words: str) -> dict[str, Any]:
    result = await run(chat.settings.data_dir, *words, "--json")
    assert result.exit_code == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


async def invite(chat: RunningApp, *options: str) -> str:
    return str((await console(chat, "invite", *options))["invitation"])


# Modes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "uninvited"),
    [
        ("closed", "registration_closed"),
        ("invite", "registration_closed"),
        ("approval", "approval_pending"),
        ("open", "ok"),
    ],
)
async def test_each_mode_treats_the_uninvited_in_its_own_way(
    database: str, tmp_path: Path, mode: str, uninvited: str
) -> None:
    async with serving(database, tmp_path, mode) as chat:
        assert (await chat.http.get("/v1/server")).json()["registration"] == mode
        assert outcome(await person(chat).register()) == uninvited


@pytest.mark.parametrize("mode", ["invite", "approval", "open"])
async def test_an_invitation_gives_its_role_as_often_as_it_says(database: str, tmp_path: Path, mode: str) -> None:
    async with serving(database, tmp_path, mode) as chat:
        token = await invite(chat, "--role", "moderator", "--uses", "2")
        found = [outcome(await person(chat, name).register(registration_token=token)) for name in ("ann", "ben", "cid")]
        assert found == ["ok", "ok", "registration_closed"]
        assert await chat.rows("SELECT role FROM users") == [("moderator",), ("moderator",)]


async def test_an_invitation_ends(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "invite") as chat:
        token = await invite(chat, "--expires-days", "1")
        await chat.execute("UPDATE registration_tokens SET expires_at = now() - interval '1 second'")
        assert outcome(await person(chat).register(registration_token=token)) == "registration_closed"


async def test_closed_takes_the_first_owner_and_nobody_else(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "closed") as chat:
        first, second = await invite(chat, "--role", "owner"), await invite(chat, "--role", "owner")
        assert outcome(await person(chat).register(registration_token=first)) == "ok"
        assert outcome(await person(chat, "ben").register(registration_token=second)) == "registration_closed"
        refused = await run(chat.settings.data_dir, "invite", "--role", "owner")
        assert (refused.exit_code, refused.stderr.split(":")[0]) == (1, "error registration_closed")


async def test_closed_invites_no_user(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "closed") as chat:
        refused = await run(chat.settings.data_dir, "invite")
        assert (refused.exit_code, refused.stderr.split(":")[0]) == (1, "error registration_closed")


async def test_the_first_start_invites_an_owner_once(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "closed") as chat:
        tokens: list[str | None] = []

        async def ask() -> None:
            tokens.append(await chat.app.first_invitation())

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        [token] = [one for one in tokens if one is not None]
        assert outcome(await person(chat, "root").register(registration_token=token)) == "ok"
        assert await chat.app.first_invitation() is None
        assert await chat.rows("SELECT user_id, role FROM users") == [(f"@root:{SERVER_NAME}", "owner")]


async def test_open_registration_is_limited_by_address_and_by_day(database: str, tmp_path: Path) -> None:
    limits = {
        "limit_registrations_address": "1 per hour, burst 2",
        "limit_registrations_server": "3 per day",
        "trusted_proxies": "127.0.0.1",
    }
    async with serving(database, tmp_path, "open", **limits) as chat:

        async def register(name: str, address: str) -> str:
            answer = await chat.http.post(
                "/v1/register", json=await person(chat, name).registration(), headers={"X-Forwarded-For": address}
            )
            return outcome(answer) if answer.status_code != 429 else str(answer.json()["limiter"])

        assert [await register(name, "192.0.2.1") for name in ("ann", "ann", "ben")] == [
            "ok",
            "name_taken",
            "registrations_address",
        ]
        assert [await register(name, "192.0.2.2") for name in ("ben", "cid")] == ["ok", "ok"]
        assert await register("dan", "192.0.2.3") == "registrations_server"


# Approval -----------------------------------------------------------------------------------------------------------


async def test_who_was_approved_can_log_in(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "approval") as chat:
        ann = person(chat)
        assert outcome(await ann.register()) == "approval_pending"
        assert outcome(await ann.log_in()) == "approval_pending"
        [waiting] = (await console(chat, "list", "--pending"))["pending"]
        assert (waiting["user"], waiting["is_name_free"]) == (ann.user, True)
        assert await console(chat, "approve", ann.user) == {"approved": ann.user}
        assert outcome(await ann.log_in()) == "ok"
        assert (await ann.ask("GET", "/v1/account")).json()["user"] == ann.user
        assert (await console(chat, "list", "--pending"))["pending"] == []
        assert [one["user"] for one in (await console(chat, "list"))["users"]] == [ann.user]
        assert await chat.rows("SELECT action, actor, object FROM audit WHERE action LIKE 'registration%%'") == [
            ("registration.requested", "", ann.user),
            ("registration.approved", "", ann.user),
        ]


async def test_of_who_was_rejected_nothing_stays(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "approval") as chat:
        ann = person(chat)
        await ann.register()
        [waiting] = (await console(chat, "list", "--pending"))["pending"]
        assert await console(chat, "reject", str(waiting["request"])) == {"rejected": ann.user}
        assert outcome(await ann.log_in()) == "login_refused"
        assert await chat.rows("SELECT count(*) FROM registration_requests") == [(0,)]
        gone = await run(chat.settings.data_dir, "approve", ann.user)
        assert (gone.exit_code, gone.stderr.split(":")[0]) == (1, "error not_found")


async def test_nobody_learns_that_somebody_waits_but_who_has_the_password(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "approval") as chat:
        ann = person(chat)
        await ann.register()
        stranger = person(chat)
        assert outcome(await stranger.log_in()) == "login_refused"
        assert outcome(await ann.log_in()) == "approval_pending"


async def test_where_an_admin_decides_nobody_learns_whether_a_name_is_taken(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "approval") as chat:
        owner = person(chat)
        assert outcome(await owner.register(registration_token=await invite(chat))) == "ok"
        of_taken, of_free = person(chat, "ann"), person(chat, "ben")
        answers = [await one.register() for one in (of_taken, of_free)] + [
            await one.log_in() for one in (of_taken, of_free)
        ]
        assert [outcome(answer) for answer in answers] == ["approval_pending"] * 4
        bodies = [{key: value for key, value in answer.json().items() if key != "request_id"} for answer in answers]
        assert (bodies[0], bodies[2]) == (bodies[1], bodies[3])
        assert outcome(await owner.log_in()) == "ok"
        waiting = (await console(chat, "list", "--pending"))["pending"]
        assert [one["is_name_free"] for one in waiting] == [False, True]
        refused = await run(chat.settings.data_dir, "approve", of_taken.user)
        assert (refused.exit_code, refused.stderr.split(":")[0]) == (1, "error name_taken")
        assert len((await console(chat, "list", "--pending"))["pending"]) == 2, "a refused approval changes nothing"


async def test_of_several_who_want_one_name_an_admin_chooses_by_number(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "approval") as chat:
        first, second = person(chat), person(chat)
        await first.register()
        await second.register()
        numbers = [str(one["request"]) for one in (await console(chat, "list", "--pending"))["pending"]]
        assert (await run(chat.settings.data_dir, "approve", first.user)).exit_code == 1
        await console(chat, "approve", numbers[1])
        assert [outcome(await one.log_in()) for one in (first, second)] == ["approval_pending", "ok"]


async def test_further_applications_for_a_name_do_not_put_out_the_first(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "approval") as chat:
        ann = person(chat)
        await ann.register()
        answers = [outcome(await person(chat).register()) for _ in range(requests_a_name_max + 1)]
        assert set(answers) == {"approval_pending"}
        assert outcome(await ann.log_in()) == "approval_pending"
        assert len((await console(chat, "list", "--pending"))["pending"]) == requests_a_name_max


async def test_applications_are_bounded(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "approval", registration_requests_max=2) as chat:
        answers = [await person(chat, name).register() for name in ("ann", "ben", "cid")]
    assert [outcome(answer) for answer in answers] == ["approval_pending", "approval_pending", "overloaded"]
    assert answers[2].json()["limiter"] == "registration_requests_max"


# Names --------------------------------------------------------------------------------------------------------------


async def test_a_name_like_a_given_one_is_taken(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "open") as chat:
        await chat.sign_up("carmen")
        found = [outcome(await person(chat, name).register()) for name in ("carrnen", "car.men", "carmen", "carla")]
    assert found == ["name_taken", "name_taken", "name_taken", "ok"]


@pytest.mark.parametrize("mode", ["open", "approval"])
async def test_reserved_names_are_nobodys(database: str, tmp_path: Path, mode: str) -> None:
    async with serving(database, tmp_path, mode, reserved_names="chef, boss") as chat:
        found = {outcome(await person(chat, name).register()) for name in ("admin", "adm1n", "chef", "b0ss", "--")}
    assert found == {"name_reserved"}


async def test_who_is_not_invited_learns_of_no_name(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "invite") as chat:
        await person(chat).register(registration_token=await invite(chat))
        taken, free, reserved = [await person(chat, name).register() for name in ("ann", "ben", "admin")]
        guessed = [
            await person(chat, name).register(registration_token=secrets.token_urlsafe(24)) for name in ("ann", "ben")
        ]
    assert {outcome(answer) for answer in (taken, free, reserved, *guessed)} == {"registration_closed"}


async def test_even_the_invited_try_names_within_a_limit(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "invite", limit_registrations_token="2 per hour") as chat:
        token = await invite(chat, "--uses", "9")
        answers = [await person(chat, "ann").register(registration_token=token) for _ in range(3)]
    assert [outcome(answer) for answer in answers] == ["ok", "name_taken", "rate_limited"]
    assert answers[2].json()["limiter"] == "registrations_token"


# Log-in -------------------------------------------------------------------------------------------------------------


async def fail_to_log_in(chat: RunningApp, name: str, *, count: int, **headers: str) -> list[httpx.Response]:
    answers = []
    for _ in range(count):
        stranger = person(chat, name)
        answers.append(await chat.http.post("/v1/login", json=await stranger.login(), headers=headers))
    return answers


async def test_log_ins_are_slowed_down_alike_for_known_and_unknown_names(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "open", login_free_count=2) as chat:
        await chat.sign_up("ann")
        shown = []
        for name in ("ann", "zoe"):
            answers = await fail_to_log_in(chat, name, count=3)
            assert [outcome(answer) for answer in answers] == ["login_refused", "login_refused", "rate_limited"]
            problem = answers[2].json()
            assert (problem["limiter"], answers[2].headers["Retry-After"]) == ("logins_account_address", "1")
            shown.append({*problem, *answers[2].headers})
        assert shown[0] == shown[1]


async def test_a_log_in_changes_nothing_for_strangers_who_guess(database: str, tmp_path: Path) -> None:
    """Else the name whose delays are gone would be one that exists, and whose owner was there just now."""
    options: dict[str, Any] = {"login_free_count": 1, "trusted_proxies": "127.0.0.1"}
    async with serving(database, tmp_path, "open", **options) as chat:
        ann = (await chat.sign_up("ann")).person
        addresses = (f"192.0.2.{number}" for number in itertools.count(1))

        async def guess(name: str, count: int) -> list[str]:
            found = []
            for _ in range(count):
                found += await fail_to_log_in(chat, name, count=1, **{"X-Forwarded-For": next(addresses)})
            return [outcome(answer) for answer in found]

        for name in ("ann", "zoe"):
            assert await guess(name, 9) == ["login_refused"] * 9
        assert outcome(await ann.log_in()) == "ok"
        for name in ("ann", "zoe"):
            assert await guess(name, 2) == ["login_refused", "rate_limited"]


async def test_strangers_elsewhere_keep_nobody_out(database: str, tmp_path: Path) -> None:
    async with serving(
        database,
        tmp_path,
        "open",
        login_free_count=1,
        trusted_proxies="127.0.0.1",
        limit_logins_address="1000 per hour",
    ) as chat:
        ann = (await chat.sign_up("ann")).person
        assert outcome(await ann.log_in()) == "ok"  # from 127.0.0.1, which is hers from now on
        for number in range(12):
            await fail_to_log_in(chat, "ann", count=1, **{"X-Forwarded-For": f"203.0.113.{number}"})
        [slowed] = await fail_to_log_in(chat, "ann", count=1, **{"X-Forwarded-For": "203.0.113.99"})
        assert slowed.json()["limiter"] == "logins_account"
        assert outcome(await ann.log_in()) == "ok"


async def test_a_stranger_at_the_same_address_keeps_no_known_device_out(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "open", login_free_count=1) as chat:
        ann = (await chat.sign_up("ann")).person
        ben = (await chat.sign_up("ben")).person
        await fail_to_log_in(chat, "ann", count=2)
        assert outcome(await ann.log_in()) == "rate_limited"
        assert outcome(await ann.log_in(known_refresh_token=ben.tokens["refresh_token"])) == "rate_limited"
        assert outcome(await ann.log_in(known_refresh_token=ann.tokens["refresh_token"])) == "ok"


async def test_a_stranger_who_uses_up_the_address_keeps_no_known_device_out(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "open", limit_logins_address="2 per hour") as chat:
        device = await chat.sign_up("ann")
        ann = device.person
        await fail_to_log_in(chat, "zoe", count=2)
        assert outcome(await ann.log_in()) == "rate_limited"
        assert outcome(await ann.log_in(known_refresh_token=ann.tokens["refresh_token"])) == "ok"
        nonce = await ann.nonce()
        step_up = {"nonce": nonce, "signature": ann.sign(nonce, "step_up")}
        assert outcome(await device.answer("POST", "/v1/step-up", step_up)) == "ok"


async def test_the_operator_learns_why_somebody_cannot_log_in(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "open", login_free_count=1) as chat:
        await fail_to_log_in(chat, "zoe", count=2)
        result = await chatty_admin(chat.settings.data_dir, "limits", "why", f"@zoe:{SERVER_NAME}", "--json")
    assert [one["limiter"] for one in json.loads(result.stdout)["refusals"]] == ["logins_account_address"]


# Over HTTP ----------------------------------------------------------------------------------------------------------


async def invite_over_http(by: WireDevice, **wanted: Any) -> str:
    """The token, or the error's code."""
    answer = await by.answer("POST", "/v1/admin/invitations", wanted)
    return str(answer.json()["invitation"]) if answer.status_code == 201 else outcome(answer)


async def test_an_admin_invites_below_and_an_owner_invites_anybody(chat: RunningApp) -> None:
    owner, admin = await chat.sign_up_as("owner"), await chat.sign_up_as("admin")
    for role in ("owner", "admin", "auditor"):
        assert await invite_over_http(admin, role=role) == "outranked"
    for by, invited in ((admin, ("moderator", "user", "bot")), (owner, ("owner", "admin", "auditor"))):
        for role in invited:
            token = await invite_over_http(by, role=role, uses=1, expires_days=1)
            assert outcome(await person(chat, f"new-{role}").register(registration_token=token)) == "ok"
            assert await chat.rows("SELECT role FROM users WHERE user_id = %s", f"@new-{role}:{SERVER_NAME}") == [
                (role,)
            ]
    made = await chat.rows(
        "SELECT actor, after ->> 'role' FROM audit WHERE action = 'invitation.made' ORDER BY audit_id"
    )
    assert made[:2] == [(admin.user, "moderator"), (admin.user, "user")]
    rows = await chat.rows("SELECT row_to_json(audit)::text FROM audit")
    assert not [row for row in rows if "chatty_i." in str(row)], "the token is nowhere"


async def test_an_invitation_is_listed_withdrawn_and_followed_to_the_accounts_that_it_made(chat: RunningApp) -> None:
    owner, admin, auditor = [await chat.sign_up_as(role) for role in ("owner", "admin", "auditor")]
    made = (await admin.answer("POST", "/v1/admin/invitations", {"uses": 2})).json()
    strong = (await owner.answer("POST", "/v1/admin/invitations", {"role": "admin"})).json()
    mine = await console(chat, "invite", "--expires-days", "1")
    await person(chat, "ann").register(registration_token=made["invitation"])
    listed = {one["id"]: one for one in (await auditor.get("/v1/admin/invitations"))["invitations"]}
    assert {(one["id"], one["role"], one["uses_left"], one["inviter"]) for one in listed.values()} == {
        (made["id"], "user", 1, admin.user),
        (strong["id"], "admin", 1, owner.user),
        (mine["id"], "user", 1, ""),
    }
    assert 0 < listed[mine["id"]]["expires_in_s"] <= 86_400 < listed[made["id"]]["expires_in_s"] <= 7 * 86_400
    assert sorted(listed) == [one["id"] for one in (await console(chat, "invitations"))["invitations"]]
    assert [outcome(await withdraw(admin, one["id"])) for one in (strong, made, made)] == [
        "outranked",
        "ok",
        "not_found",
    ]
    assert await console(chat, "withdraw", mine["id"]) == {"withdrawn": mine["id"]}
    for name, token, code in (
        ("bob", made["invitation"], "registration_closed"),
        ("cid", mine["invitation"], "registration_closed"),
        ("dan", strong["invitation"], "ok"),
    ):
        assert outcome(await person(chat, name).register(registration_token=token)) == code
    assert (await auditor.get("/v1/admin/invitations"))["invitations"] == [], "what is used up is not listed"
    recorded = await chat.rows("""SELECT action, actor, object, detail FROM audit
        WHERE action LIKE 'invitation.%%' OR detail ? 'invitation' ORDER BY audit_id""")
    assert recorded == [
        ("invitation.made", admin.user, made["id"], {}),
        ("invitation.made", owner.user, strong["id"], {}),
        ("invitation.made", "", mine["id"], {}),
        ("account.registered", f"@ann:{SERVER_NAME}", f"@ann:{SERVER_NAME}", {"invitation": made["id"]}),
        ("invitation.withdrawn", admin.user, made["id"], {}),
        ("invitation.withdrawn", "", mine["id"], {}),
        ("account.registered", f"@dan:{SERVER_NAME}", f"@dan:{SERVER_NAME}", {"invitation": strong["id"]}),
    ]


async def withdraw(by: WireDevice, invitation: str) -> httpx.Response:
    return await by.answer("DELETE", f"/v1/admin/invitations/{invitation}")


async def test_invitations_are_listed_in_pages(chat: RunningApp) -> None:
    owner = await chat.sign_up_as("owner")
    made = [(await owner.answer("POST", "/v1/admin/invitations", {})).json()["id"] for _ in range(5)]
    found: list[str] = []
    after = ""
    while not found or after:
        page = await owner.get(f"/v1/admin/invitations?limit=2&after={after}")
        found += [one["id"] for one in page["invitations"]]
        after = page.get("next_after", "")
    assert found == sorted(made)


@pytest.mark.parametrize("how", ["demoted", "locked"])
async def test_an_invitation_ends_with_its_makers_right_to_make_it(chat: RunningApp, how: str) -> None:
    """Else who was an owner for a minute could come back as one for ever."""
    owner, other, admin = [
        await chat.sign_up_as(role, name) for role, name in (("owner", "ann"), ("owner", "bob"), ("admin", "cid"))
    ]
    tokens = [await invite_over_http(other, role="owner"), await invite_over_http(admin), await invite_over_http(owner)]
    for one in (other, admin):
        if how == "demoted":
            await owner.answer("PUT", f"/v1/admin/users/{one.user}/role", {"role": "moderator"})
        else:
            await owner.answer("PUT", f"/v1/admin/users/{one.user}/lock", {"is_locked": True})
    found = [
        outcome(await person(chat, f"new{place}").register(registration_token=token))
        for place, token in enumerate(tokens)
    ]
    assert found == ["registration_closed", "registration_closed", "ok"]
    assert await chat.rows("SELECT uses_left FROM registration_tokens ORDER BY inviter_number DESC") == [
        (1,),
        (1,),
        (0,),
    ]


async def test_where_registration_is_closed_nobody_invites(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "closed") as chat:
        root = person(chat, "root")
        await root.register(registration_token=await invite(chat, "--role", "owner"))
        answer = await root.ask("POST", "/v1/admin/invitations", json={})
        assert (answer.status_code, outcome(answer)) == (403, "registration_closed")


async def test_applications_are_decided_over_http(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "approval") as chat:
        admin = person(chat, "zoe")
        await admin.register(registration_token=await invite(chat, "--role", "admin"))
        ann, bob = person(chat, "ann"), person(chat, "bob")
        for one in (ann, bob):
            await one.register()
        pending = (await admin.ask("GET", "/v1/admin/applications")).json()["pending"]
        assert [(one["user"], one["is_name_free"]) for one in pending] == [(ann.user, True), (bob.user, True)]
        paths = [
            f"/v1/admin/applications/{one['request']}/{decision}"
            for one, decision in zip(pending, ("approve", "reject"), strict=True)
        ]
        for path, user in zip(paths, (ann.user, bob.user), strict=True):
            assert (await admin.ask("POST", path, json={})).json() == {"user": user}
            assert outcome(await admin.ask("POST", path, json={})) == "not_found"
        assert [outcome(await one.log_in()) for one in (ann, bob)] == ["ok", "login_refused"]
        acts = "SELECT action, actor, object, before, after FROM audit WHERE action LIKE 'registration.%%ed' AND actor <> ''"
        assert await chat.rows(acts) == [
            ("registration.approved", admin.user, ann.user, {"state": "pending"}, {"state": "approved"}),
            ("registration.rejected", admin.user, bob.user, {"state": "pending"}, {"state": "rejected"}),
        ]


# The console --------------------------------------------------------------------------------------------------------


async def test_people_are_invited_while_no_server_runs(database: str, tmp_path: Path) -> None:
    environment = {"CHATTY_DATABASE_URL": as_url(database), "CHATTY_REGISTRATION": "invite"}
    data_dir = tmp_path / "data"
    result = await run(data_dir, "invite", "--role", "admin", "--json", **environment)
    assert result.exit_code == 0, result.stderr
    async with serving(database, tmp_path, "invite") as chat:
        token = json.loads(result.stdout)["invitation"]
        assert outcome(await person(chat).register(registration_token=token)) == "ok"
        assert await chat.rows("SELECT action, actor, after ->> 'role' FROM audit ORDER BY audit_id LIMIT 1") == [
            ("invitation.made", "", "admin")
        ]


async def test_without_a_server_and_without_its_data_there_is_nobody_to_ask(tmp_path: Path) -> None:
    result = await run(tmp_path / "nothing", "list", CHATTY_DATABASE_URL="")
    assert (result.exit_code, result.stderr.split(":")[0]) == (3, "error database_missing")


@pytest.mark.parametrize(
    "options", [("--uses", "0"), ("--expires-days", "0"), ("--expires-days", "9999"), ("--role", "king")]
)
async def test_an_invitation_out_of_range_is_wrong_usage(tmp_path: Path, options: tuple[str, str]) -> None:
    assert (await run(tmp_path, "invite", *options)).exit_code == 2


async def test_a_table_for_eyes_shows_who_waits(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, "approval") as chat:
        await person(chat).register()
        shown = await run(chat.settings.data_dir, "list", "--pending")
    header, row = shown.stdout.splitlines()
    assert header.split() == ["request", "user", "age_s", "is_name_free"]
    assert row.split()[1:] == [f"@ann:{SERVER_NAME}", "0", "yes"]
