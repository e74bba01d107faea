"""No honest client is logged out and no thief goes unnoticed; each rule of it is needed (the theory: tokens.py)."""

from collections.abc import Callable

import pytest

from .checker import explore
from .tokens import TokenRules, Tokens, TokenWorld

LOGGED_OUT = "the honest client is logged out"
UNNOTICED = "no reuse noticed"
A_WEAPON = "a thief without the key logs the honest client out"
with_thief = TokenWorld(in_flight=2, thief="with the key")
with_petty_thief = TokenWorld(tokens=4, thief="without the key")

DROPPED = [
    ("a retired token has a time of grace", TokenWorld(), TokenRules(has_grace=False), LOGGED_OUT),
    ("a proof lives no longer than the grace", TokenWorld(), TokenRules(nonce_ticks=3), LOGGED_OUT),
    ("a lost answer may be asked for at any time", TokenWorld(), TokenRules(lost_answer_ticks=2), LOGGED_OUT),
    ("the disk never goes back", TokenWorld(), TokenRules(disk_never_goes_back=False), LOGGED_OUT),
    ("a token is on the disk before it is used", TokenWorld(), TokenRules(is_on_disk_first=False), LOGGED_OUT),
    ("an access token's use counts", with_thief, TokenRules(use="refresh"), UNNOTICED),
    (
        "a wrong key revokes nothing",
        with_petty_thief,
        TokenRules(does_wrong_key_revoke=True),
        A_WEAPON,
    ),
]


@pytest.mark.long
def test_with_all_rules_no_honest_client_is_logged_out(counts: Callable[[int, int], int]) -> None:
    found = explore(Tokens(TokenWorld(tokens=counts(4, 5)), TokenRules()))
    assert found.violation is None, str(found.violation)
    assert found.is_complete


@pytest.mark.parametrize("world", [with_thief, with_petty_thief], ids=repr)
def test_with_all_rules_a_thief_is_noticed_and_has_no_weapon(world: TokenWorld) -> None:
    found = explore(Tokens(world, TokenRules()))
    assert found.violation is None, str(found.violation)
    assert found.is_complete


@pytest.mark.parametrize(("rule", "world", "rules", "breaks"), DROPPED, ids=[one[0] for one in DROPPED])
def test_without_the_rule_it_goes_wrong(rule: str, world: TokenWorld, rules: TokenRules, breaks: str) -> None:
    violation = explore(Tokens(world, rules)).violation
    assert violation is not None, rule
    assert breaks in violation.sentence
