"""A log-in session proves itself anew: step-up."""

import secrets

from tests.server.conftest import RunningServer

_OLD = "UPDATE refresh_families SET stepped_up_at = now() - interval '1 hour'"
_AGE = "SELECT extract(epoch FROM now() - stepped_up_at)::int / 60 FROM refresh_families ORDER BY created_at"


async def test_a_step_up_makes_this_session_fresh_and_no_other(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    await ann.log_in()
    async with running.pool.transaction() as connection:
        await connection.execute(_OLD)
    nonce = await ann.nonce()
    body = {"nonce": nonce, "signature": ann.sign(nonce, "step_up")}
    assert (await ann.ask("POST", "/v1/step-up", json=body)).status_code == 200
    assert await running.rows(_AGE) == [(60,), (0,)]
    recorded = await running.rows("SELECT actor, device FROM audit WHERE action = 'session.stepped_up'")
    assert recorded == [(ann.user, ann.tokens["device"])]


async def test_a_step_up_needs_the_password_and_says_what_it_is_for(running: RunningServer) -> None:
    ann, eve = running.person(), running.person("eve")
    await ann.register()
    await eve.register()
    async with running.pool.transaction() as connection:
        await connection.execute(_OLD)
    nonce = await ann.nonce()
    signatures = {
        "for a log-in": ann.sign(nonce, "login"),
        "somebody else's": eve.sign(nonce, "step_up"),
        "of another nonce": ann.sign("1.x", "step_up"),
        "for another key": ann.sign(nonce, "step_up", dpop_thumbprint="T" * 43),
    }
    for what, signature in signatures.items():
        answer = await ann.ask("POST", "/v1/step-up", json={"nonce": nonce, "signature": signature})
        assert (answer.status_code, answer.json()["code"]) == (401, "login_refused"), what
    ann.login_seed = secrets.token_bytes(32)
    body = {"nonce": nonce, "signature": ann.sign(nonce, "step_up")}
    assert (await ann.ask("POST", "/v1/step-up", json=body)).json()["code"] == "login_refused"
    assert await running.rows(_AGE) == [(60,), (60,)]
