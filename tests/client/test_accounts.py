"""What a client makes of a password, and what it refuses to do with one."""

import pytest

from chatty.client.accounts import check_identity_key, new_device_id
from chatty.client.passwords import derive
from chatty.client.reasons import Lie, Reason, UnacceptableDerivation
from chatty.crypto.passwords import DEFAULT_DERIVATION, DerivationLimits
from chatty.crypto.signatures import public_key
from chatty.ids import UserId
from chatty.wire.accounts import KeyDerivation
from tests.client.small_server import CHEAP, CHEAP_LIMITS


@pytest.mark.parametrize(
    "parameters",
    [
        KeyDerivation(algorithm="argon2id", memory_bytes=67_108_863, passes=3),
        KeyDerivation(algorithm="argon2id", memory_bytes=1_073_741_825, passes=3),
        KeyDerivation(algorithm="argon2id", memory_bytes=67_108_864, passes=1),
        KeyDerivation(algorithm="argon2id", memory_bytes=67_108_864, passes=1_000),
        KeyDerivation(algorithm="md5", memory_bytes=67_108_864, passes=3),
    ],
)
async def test_too_weak_or_too_strong_hashing_is_refused(parameters: KeyDerivation) -> None:
    with pytest.raises(UnacceptableDerivation):
        await derive("a password", b"s" * 32, parameters, limits=DerivationLimits())


async def test_two_passwords_give_other_keys() -> None:
    first = await derive("one", b"s" * 32, CHEAP, limits=CHEAP_LIMITS)
    second = await derive("two", b"s" * 32, CHEAP, limits=CHEAP_LIMITS)
    assert first.login_seed != second.login_seed
    assert first.login_seed != first.wrapping_key
    assert DEFAULT_DERIVATION.memory_bytes >= DerivationLimits().memory_bytes_min


def test_another_identity_than_ones_own_is_noticed_at_log_in() -> None:
    user = UserId("@ann:example.org")
    check_identity_key(user, b"a" * 32, public_key(b"a" * 32))
    with pytest.raises(Lie) as caught:
        check_identity_key(user, b"a" * 32, public_key(b"b" * 32))
    assert caught.value.reason is Reason.IDENTITY_CHANGED


def test_device_ids_are_random_and_of_the_right_form() -> None:
    ids = {new_device_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(8 <= len(one) <= 64 for one in ids)
