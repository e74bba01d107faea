"""What a device may upload: only its own keys, only points that give a secret, only what it signed itself."""

from typing import Any

import msgspec
import pytest

from chatty.errors import BadKey, BadRequest, BadSignature
from chatty.ids import DeviceId, UserId
from chatty.services.keys import addresses, check_device_keys, check_keys, value_hash
from chatty.wire.canonical import encode_base64
from chatty.wire.keys import DeviceKeys, KeyClaim, KeyUpload
from tests.olm_devices import ALGORITHMS, OlmDevice, as_keys

ANN, BOB = UserId("@ann:example.org"), UserId("@bob:example.org")
PHONE, LAPTOP = DeviceId("annsphone"), DeviceId("bobslaptop")

_P = 2**255 - 19
# RFC 7748's points of small order and their forms above the prime: x-coordinates, little-endian.
_OF_ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
_SMALL_ORDER = [encode_base64(x.to_bytes(32, "little")) for x in (0, 1, *_OF_ORDER_8, _P - 1, _P, _P + 1)]
_SMALL_ORDER_HIGH_BIT = [encode_base64((x | 1 << 255).to_bytes(32, "little")) for x in (0, 1, *_OF_ORDER_8, _P - 1)]


@pytest.fixture
def phone() -> OlmDevice:
    return OlmDevice(user=ANN, device=PHONE)


def check(device: OlmDevice, value: dict[str, Any]) -> None:
    check_device_keys(msgspec.convert(value, DeviceKeys), user=device.user, device=device.device)


def owner_of(device: OlmDevice) -> DeviceKeys:
    return msgspec.convert(device.device_keys(), DeviceKeys)


def keys_of(device: OlmDevice, **changed: str) -> dict[str, str]:
    keys = {"curve25519": device.curve25519, "ed25519": device.ed25519, **changed}
    return {f"{algorithm}:{device.device}": key for algorithm, key in keys.items()}


def test_what_an_olm_library_makes_is_accepted(phone: OlmDevice) -> None:
    upload = phone.upload(one_time_keys_count=3, with_fallback=True)
    assert upload.device_keys is not None
    check_device_keys(upload.device_keys, user=ANN, device=PHONE)
    assert len(check_keys(upload.one_time_keys, owner=upload.device_keys, is_fallback=False)) == 3
    assert len(check_keys(upload.fallback_keys, owner=upload.device_keys, is_fallback=True)) == 1


@pytest.mark.parametrize(("user", "device"), [(BOB, PHONE), (ANN, LAPTOP)])
def test_the_keys_of_another_device_are_refused(phone: OlmDevice, user: UserId, device: DeviceId) -> None:
    with pytest.raises(BadRequest):
        check_device_keys(msgspec.convert(phone.device_keys(), DeviceKeys), user=user, device=device)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_both_algorithms_must_be_spoken(phone: OlmDevice, algorithm: str) -> None:
    with pytest.raises(BadRequest, match="algorithms must contain"):
        check(phone, phone.device_keys(algorithms=[algorithm]))


def test_further_algorithms_are_the_devices_affair(phone: OlmDevice) -> None:
    check(phone, phone.device_keys(algorithms=[*ALGORITHMS, "m.mls.v1"]))


def test_a_missing_or_further_key_is_refused(phone: OlmDevice) -> None:
    keys = keys_of(phone)
    for wrong in (dict([*keys.items()][:1]), {**keys, f"ed25519:{LAPTOP}": phone.ed25519}):
        with pytest.raises(BadKey):
            check(phone, phone.device_keys(keys=wrong))


@pytest.mark.parametrize("point", _SMALL_ORDER + _SMALL_ORDER_HIGH_BIT)
def test_points_of_small_order_are_refused_everywhere(phone: OlmDevice, point: str) -> None:
    with pytest.raises(BadKey):
        check(phone, phone.device_keys(keys=keys_of(phone, curve25519=point)))
    for is_fallback in (False, True):
        value = {"key": point, "fallback": True} if is_fallback else {"key": point}
        keys = as_keys({"signed_curve25519:AAAAAQ": phone.signed(value)})
        with pytest.raises(BadKey):
            check_keys(keys, owner=owner_of(phone), is_fallback=is_fallback)


@pytest.mark.parametrize("ed25519", [encode_base64(bytes(32)), encode_base64(b"\x01" + bytes(31)), "A" * 42 + "B"])
def test_an_ed25519_key_that_is_no_point_of_the_group_is_refused(phone: OlmDevice, ed25519: str) -> None:
    with pytest.raises(BadKey):
        check(phone, phone.device_keys(keys=keys_of(phone, ed25519=ed25519)))


def test_base64_with_stray_bits_is_refused(phone: OlmDevice) -> None:
    stray = phone.curve25519[:-1] + chr(ord(phone.curve25519[-1]) + 1)
    with pytest.raises(BadKey):
        check(phone, phone.device_keys(keys=keys_of(phone, curve25519=stray)))


@pytest.mark.parametrize("key", ["", "AAAA", "A" * 44, "!" * 43, "A" * 42 + "=", "A" * 43 + "\n"])
def test_what_is_not_32_bytes_of_base64_is_no_request(phone: OlmDevice, key: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        check(phone, phone.device_keys(keys=keys_of(phone, curve25519=key)))


def test_an_altered_object_is_refused(phone: OlmDevice) -> None:
    other = OlmDevice(user=ANN, device=PHONE)
    with pytest.raises(BadSignature):
        check(phone, {**phone.device_keys(), "keys": keys_of(phone, curve25519=other.curve25519)})
    (key_id, key), *_ = phone.one_time_keys(1).items()
    with pytest.raises(BadSignature):
        check_keys(as_keys({key_id: {**key, "key": other.curve25519}}), owner=owner_of(phone), is_fallback=False)


def test_a_signature_by_another_device_is_refused(phone: OlmDevice) -> None:
    forger = OlmDevice(user=ANN, device=PHONE)
    with pytest.raises(BadSignature):
        check_keys(as_keys(forger.one_time_keys(1)), owner=owner_of(phone), is_fallback=False)
    with pytest.raises(BadSignature):
        check(phone, {**phone.device_keys(), "signatures": forger.device_keys()["signatures"]})


@pytest.mark.parametrize("extra", [{}, {BOB: "ed25519:bobslaptop"}, {ANN: "ed25519:another"}])
def test_no_signature_or_a_further_one_is_refused(phone: OlmDevice, extra: dict[str, str]) -> None:
    value = phone.device_keys()
    signature = value["signatures"][ANN][f"ed25519:{PHONE}"]
    value["signatures"] = {user: {key_id: signature} for user, key_id in extra.items()}
    if extra:
        value["signatures"].setdefault(ANN, {})[f"ed25519:{PHONE}"] = signature
    with pytest.raises(BadSignature):
        check(phone, value)


def test_only_signed_curve25519_keys_are_kept(phone: OlmDevice) -> None:
    keys = {key_id.replace("signed_", ""): key for key_id, key in phone.one_time_keys(1).items()}
    with pytest.raises(BadRequest, match="only signed_curve25519"):
        check_keys(as_keys(keys), owner=owner_of(phone), is_fallback=False)


def test_a_fallback_key_cannot_pass_for_a_one_time_key_nor_the_reverse(phone: OlmDevice) -> None:
    for keys, is_fallback in ((phone.fallback_key(), False), (phone.one_time_keys(1), True)):
        with pytest.raises(BadRequest):
            check_keys(as_keys(keys), owner=owner_of(phone), is_fallback=is_fallback)


def test_a_key_is_named_by_its_value_not_by_its_signature(phone: OlmDevice) -> None:
    (key,) = phone.one_time_keys(1).values()
    (other,) = phone.one_time_keys(1).values()
    resigned = OlmDevice(user=ANN, device=PHONE).signed({"key": key["key"]})
    hashes = [
        value_hash(as_keys({"signed_curve25519:A": value})["signed_curve25519:A"]) for value in (key, resigned, other)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_request_names_at_most_so_many_devices_in_all() -> None:
    nested = {ANN: [DeviceId(f"device-{i}") for i in range(3)], BOB: [DeviceId("device-3")]}
    assert len(addresses(nested, count_max=4)) == 4
    with pytest.raises(BadRequest):
        addresses(nested, count_max=3)


@pytest.mark.parametrize(
    "change",
    [{"unsigned": {}}, {"algorithms": ["\u0000"]}, {"algorithms": ["a" * 65]}, {"algorithms": ALGORITHMS * 5}],
)
def test_unknown_and_unbounded_fields_are_no_request(phone: OlmDevice, change: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"device_keys": {**phone.device_keys(), **change}}, KeyUpload)


def test_a_claim_names_the_one_algorithm() -> None:
    msgspec.convert({"one_time_keys": {ANN: {PHONE: "signed_curve25519"}}}, KeyClaim)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"one_time_keys": {ANN: {PHONE: "curve25519"}}}, KeyClaim)
