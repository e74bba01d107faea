"""Passwords stay on the client: what is derived from them, and what a client refuses to derive."""

import pytest

from chatty.app.steps import key_derivations
from chatty.config import Settings, derivation_memory_bytes, derivation_passes
from chatty.crypto import signatures
from chatty.crypto.passwords import DEFAULT_DERIVATION, DerivationLimits, check_parameters, derive, salt, unwrap, wrap
from chatty.errors import BadRequest, SealBroken
from chatty.ids import UserId
from chatty.wire.accounts import KeyDerivation

CHEAP = KeyDerivation(algorithm="argon2id", memory_bytes=65_536, passes=1)
CHEAP_LIMITS = DerivationLimits(memory_bytes_min=8_192, passes_min=1)
SALT = salt(server_name="x", user=UserId("@ann:x"), served_salt=b"s" * 16)


def test_the_same_password_gives_the_same_two_unrelated_keys() -> None:
    keys = derive("correct horse", salt=SALT, parameters=CHEAP, limits=CHEAP_LIMITS)
    assert keys == derive("correct horse", salt=SALT, parameters=CHEAP, limits=CHEAP_LIMITS)
    assert len(keys.wrapping_key) == len(keys.login_seed) == 32
    assert keys.wrapping_key != keys.login_seed
    assert signatures.public_key(keys.login_seed)


def test_another_password_or_salt_gives_other_keys() -> None:
    keys = derive("correct horse", salt=SALT, parameters=CHEAP, limits=CHEAP_LIMITS)
    other_salt = salt(server_name="x", user=UserId("@bob:x"), served_salt=b"s" * 16)
    assert keys != derive("correct horsf", salt=SALT, parameters=CHEAP, limits=CHEAP_LIMITS)
    assert keys != derive("correct horse", salt=other_salt, parameters=CHEAP, limits=CHEAP_LIMITS)


def test_a_password_typed_on_another_keyboard_is_the_same() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert derive(composed, salt=SALT, parameters=CHEAP, limits=CHEAP_LIMITS) == derive(
        decomposed, salt=SALT, parameters=CHEAP, limits=CHEAP_LIMITS
    )


def test_salts_of_different_parts_never_meet() -> None:
    one = salt(server_name="ab", user=UserId("c"), served_salt=b"d")
    assert one != salt(server_name="a", user=UserId("bc"), served_salt=b"d")
    assert one != salt(server_name="ab", user=UserId("cd"), served_salt=b"")


@pytest.mark.parametrize(
    "parameters",
    [
        KeyDerivation(algorithm="argon2id", memory_bytes=67_108_863, passes=3),
        KeyDerivation(algorithm="argon2id", memory_bytes=1_073_741_825, passes=3),
        KeyDerivation(algorithm="argon2id", memory_bytes=67_108_864, passes=1),
        KeyDerivation(algorithm="argon2id", memory_bytes=67_108_864, passes=17),
        KeyDerivation(algorithm="scrypt", memory_bytes=67_108_864, passes=3),
    ],
)
def test_a_client_refuses_what_is_too_weak_too_strong_or_something_else(parameters: KeyDerivation) -> None:
    with pytest.raises(BadRequest):
        derive("correct horse", salt=SALT, parameters=parameters)


def test_what_our_server_asks_for_is_accepted() -> None:
    check_parameters(DEFAULT_DERIVATION, DerivationLimits())
    assert key_derivations(Settings()) == [DEFAULT_DERIVATION]


def test_a_server_may_ask_for_exactly_what_clients_accept() -> None:
    limits = DerivationLimits()
    assert (derivation_memory_bytes[0], derivation_memory_bytes[-1]) == (
        limits.memory_bytes_min,
        limits.memory_bytes_max,
    )
    assert (derivation_passes[0], derivation_passes[-1]) == (limits.passes_min, limits.passes_max)


def test_derived_keys_do_not_print() -> None:
    keys = derive("correct horse", salt=SALT, parameters=CHEAP, limits=CHEAP_LIMITS)
    assert repr(keys) == "PasswordKeys()"


def test_a_wrapped_secret_opens_with_its_key_for_its_purpose() -> None:
    wrapped = wrap(b"recovery", key=b"k" * 32, purpose="recovery")
    assert unwrap(wrapped, key=b"k" * 32, purpose="recovery") == b"recovery"
    for key, purpose, text in (
        (b"l" * 32, "recovery", wrapped),
        (b"k" * 32, "identity", wrapped),
        (b"k" * 32, "recovery", wrapped[:-1]),
        (b"k" * 32, "recovery", wrapped[:30]),
        (b"k" * 32, "recovery", b"\x02" + wrapped[1:]),
        (b"k" * 32, "recovery", b""),
    ):
        with pytest.raises(SealBroken):
            unwrap(text, key=key, purpose=purpose)
