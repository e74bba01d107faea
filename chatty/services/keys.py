"""Device keys, one-time keys and fallback keys, in Matrix's shapes.

A device publishes its identity keys once and for ever: other keys under the same id are refused, so what a peer has verified
stays what it is. The first upload puts the device into its user's set, which changes the list version and owes each joined room
a `devices` event. One-time keys are bounded by what is unclaimed; a claimed one leaves a row without the key, so that neither a
resend of the upload nor a client rolled back to an older store can have it handed out a second time. When none is left the
fallback key is handed out, again and again, until the device replaces it.

What is public here is still not believed: every key is checked to be a point that gives a secret, and every object to be signed
by the device that it names and by nobody else. Clients check the same again.

Full: `one_time_keys_max` unclaimed keys refuse a whole upload; claims have no queue, they wait for each other at the rows.
Cancelled or crashed: each step is one transaction, so all of it happened or nothing.
Source: Matrix client-server API, "End-to-End Encryption": /keys/upload, /keys/query, /keys/claim.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

import msgspec

from chatty.crypto.signatures import check_curve25519_key, check_ed25519_key, verify_matrix_object
from chatty.errors import BadKey, BadRequest, BadSignature, DeviceRevoked, KeyConflict, QuotaExceeded
from chatty.ids import DeviceId, DeviceNumber, SendNumber, UserId
from chatty.services.caller import Caller
from chatty.services.devices import DevicesUnit, publish_keys
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.limits import Limits, count_lookups
from chatty.services.requests import Requests
from chatty.services.units import Transactions
from chatty.wire import limits
from chatty.wire.canonical import canonical_json
from chatty.wire.chain import request_digest
from chatty.wire.frames import OneTimeKeyCounts
from chatty.wire.keys import (
    SIGNED_CURVE25519,
    ClaimedKeys,
    DeviceKeys,
    DeviceList,
    KeyAnswer,
    KeyClaim,
    KeyCounts,
    KeyQuery,
    KeyUpload,
    SignedKey,
)
from chatty.wire.signing import matrix_signed_bytes

REQUIRED_ALGORITHMS = frozenset({"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"})

Address = tuple[UserId, DeviceId]


@dataclass(frozen=True, kw_only=True)
class PublishedKey:
    """A checked one-time or fallback key; value_hash: of what its signature covers, so a new signature is no new key."""

    key_id: str
    key: SignedKey
    value_hash: bytes


@dataclass(frozen=True, kw_only=True)
class UserDevices:
    """Of one user, as of one moment: the list and the keys of the devices in the set."""

    device_list: DeviceList
    devices: Mapping[DeviceId, DeviceKeys]


# Rules --------------------------------------------------------------------------------------------------------------


def check_device_keys(keys: DeviceKeys, *, user: UserId, device: DeviceId) -> None:
    """Are these this device's own keys, and usable? Raises: BadRequest, BadKey, BadSignature."""
    if (keys.user_id, keys.device_id) != (user, device):
        raise BadRequest("a device uploads its own keys only")
    if not REQUIRED_ALGORITHMS.issubset(keys.algorithms):
        raise BadRequest(f"algorithms must contain {', '.join(sorted(REQUIRED_ALGORITHMS))}")
    if set(keys.keys) != {f"curve25519:{device}", f"ed25519:{device}"}:
        raise BadKey("keys must be exactly the device's curve25519 and ed25519 key")
    check_curve25519_key(keys.curve25519)
    check_ed25519_key(keys.ed25519)
    _check_signed(keys, owner=keys)


def check_keys(keys: Mapping[str, SignedKey], *, owner: DeviceKeys, is_fallback: bool) -> list[PublishedKey]:
    """One-time or fallback keys of this owner, in the order given. Raises: BadRequest, BadKey, BadSignature."""
    for key_id, key in keys.items():
        if key_id.partition(":")[0] != SIGNED_CURVE25519:
            raise BadRequest(f"{key_id}: only {SIGNED_CURVE25519} keys are kept")
        if key.fallback is not is_fallback:
            raise BadRequest(f"{key_id}: exactly fallback keys say that they are, under their signature")
        check_curve25519_key(key.key)
        _check_signed(key, owner=owner)
    return [PublishedKey(key_id=key_id, key=key, value_hash=value_hash(key)) for key_id, key in keys.items()]


def value_hash(key: SignedKey) -> bytes:
    """Names the value of a key, whatever signatures it carries: 32 bytes."""
    return sha256(matrix_signed_bytes(msgspec.to_builtins(key))).digest()


def addresses(nested: Mapping[UserId, Collection[DeviceId]], *, count_max: int) -> list[Address]:
    """The devices that a request names, each once. Raises: BadRequest for more than count_max."""
    found = [(user, device) for user, devices in nested.items() for device in devices]
    if len(found) > count_max:
        raise BadRequest(f"at most {count_max} devices in one request")
    return found


def _check_signed(value: DeviceKeys | SignedKey, *, owner: DeviceKeys) -> None:
    key_id = f"ed25519:{owner.device_id}"
    signers = [(user, signer) for user, signatures in value.signatures.items() for signer in signatures]
    if signers != [(owner.user_id, key_id)]:
        raise BadSignature("an upload carries the device's own signature and no other")
    verify_matrix_object(msgspec.to_builtins(value), user=owner.user_id, key_id=key_id, public_key=owner.ed25519)


# Port ---------------------------------------------------------------------------------------------------------------


class Keys(Protocol):
    async def device_keys(self, device: DeviceNumber) -> DeviceKeys | None:
        """What this device has published; None: nothing yet."""
        ...

    async def lock_device(self, device: DeviceNumber) -> bool:
        """Lock the device's send row, so that its uploads come one by one; is the device live?"""
        ...

    async def known_hashes(self, device: DeviceNumber, key_ids: Collection[str]) -> Mapping[str, bytes]:
        """The value hashes of those of these one-time keys that were ever uploaded, claimed or not."""
        ...

    async def add_one_time_keys(self, device: DeviceNumber, keys: Sequence[PublishedKey]) -> None:
        """Append in this order; the device is locked and the ids are new."""
        ...

    async def set_fallback_key(self, device: DeviceNumber, key: PublishedKey) -> None:
        """Replace the fallback key of its algorithm, unused again; the very same key changes nothing."""
        ...

    async def counts(self, device: DeviceNumber) -> OneTimeKeyCounts: ...

    async def user_devices(self, users: Collection[UserId]) -> Mapping[UserId, UserDevices]:
        """Known users only. Meant for a snapshot: it is more than one statement."""
        ...

    async def usable_devices(self, wanted: Collection[Address]) -> Mapping[Address, DeviceNumber]:
        """Those that are live and in their user's set."""
        ...

    async def claim(self, devices: Collection[DeviceNumber]) -> Mapping[DeviceNumber, tuple[str, SignedKey]]:
        """Take the oldest one-time key of each, for ever, or read its fallback key and mark it used: (key id, key)."""
        ...

    async def running_low(self, devices: Collection[DeviceNumber], *, below: int) -> Collection[DeviceNumber]:
        """Those with fewer than `below` unclaimed one-time keys."""
        ...


# Steps --------------------------------------------------------------------------------------------------------------


class KeysUnit(DevicesUnit, Protocol):
    """What these steps need of a transaction."""

    @property
    def requests(self) -> Requests: ...
    @property
    def keys(self) -> Keys: ...


class KeySteps:
    """one_time_keys_max: unclaimed keys a device may have; below half of it a claim rings for the device to upload more.

    clock_ms: milliseconds since 1970.
    """

    def __init__(
        self,
        *,
        unit_of_work: Transactions[KeysUnit],
        doorbells: Doorbells,
        clock_ms: Callable[[], int],
        limits: Limits,
        one_time_keys_max: int = 50,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._doorbells = doorbells
        self._clock_ms = clock_ms
        self._limits = limits
        self._one_time_keys_max = one_time_keys_max

    async def upload(self, caller: Caller, body: KeyUpload) -> KeyCounts:
        """Publish keys of the calling device: all of them or none. The same upload again changes nothing.

        Raises: BadRequest, BadKey, BadSignature, KeyConflict, QuotaExceeded, DeviceRevoked.
        """
        one_time_keys, fallback_keys = await self._checked(caller, body)
        doorbell = Doorbell()
        async with self._unit_of_work.begin() as unit:
            if body.device_keys is not None:
                doorbell = await publish_keys(unit, caller, body.device_keys, now_ms=self._clock_ms())
            if not await unit.keys.lock_device(caller.device_number):
                raise DeviceRevoked("this device was revoked")
            await self._add_one_time_keys(unit.keys, caller.device_number, one_time_keys)
            for key in fallback_keys:
                await unit.keys.set_fallback_key(caller.device_number, key)
            counts = await unit.keys.counts(caller.device_number)
        self._doorbells.ring(doorbell)
        return KeyCounts(one_time_key_counts=counts.counts, unused_fallback_key_types=counts.unused_fallback_algorithms)

    async def query(self, caller: Caller, body: KeyQuery) -> KeyAnswer:
        """Lists and keys of the users named, as of one moment; unknown users are left out. Raises: RateLimited."""
        count_lookups(self._limits, caller, "post_v1_keys_query", len(body.device_keys))
        async with self._unit_of_work.snapshot() as unit:
            found = await unit.keys.user_devices(body.device_keys)
        return KeyAnswer(
            device_keys={user: dict(_chosen(found[user].devices, body.device_keys[user])) for user in found},
            device_lists={user: listed.device_list for user, listed in found.items()},
        )

    async def claim(self, caller: Caller, body: KeyClaim, *, n: SendNumber, low: SendNumber) -> ClaimedKeys:
        """Hand out one key a device, each one-time key once for ever; the fallback key when none is left.

        Returns: only the devices that have a key; a resend gets the same keys.
        Raises: BadRequest; MessageIdConflict, MessageIdClosed, SendWindowFull, DeviceRevoked.
        Cancelled: nothing is claimed, or all is and waits under (device, n).
        """
        wanted = addresses(body.one_time_keys, count_max=limits.claim_devices_max)
        digest = request_digest("post_v1_keys_claim", canonical_json(msgspec.to_builtins(body)))
        async with self._unit_of_work.begin() as unit:
            recorded = await unit.requests.open(caller.device_number, n=n, low=low, digest=digest)
            if recorded is not None:
                return msgspec.json.decode(recorded, type=ClaimedKeys)
            numbers = await unit.keys.usable_devices(wanted)
            claimed = await unit.keys.claim(numbers.values())
            answer = _answer(numbers, claimed)
            await unit.requests.record(caller.device_number, n=n, digest=digest, answer=msgspec.json.encode(answer))
            low_devices = await unit.keys.running_low(claimed, below=(self._one_time_keys_max + 1) // 2)
        self._doorbells.ring(Doorbell(devices=low_devices))
        return answer

    async def _checked(self, caller: Caller, body: KeyUpload) -> tuple[list[PublishedKey], list[PublishedKey]]:
        """Checked before the transaction: a hundred signatures are milliseconds, and published keys never change."""
        if body.device_keys is not None:
            check_device_keys(body.device_keys, user=caller.user, device=caller.device)
        if not body.one_time_keys and not body.fallback_keys:
            return [], []
        owner = body.device_keys or await self._published(caller)
        if len(body.fallback_keys) > 1:
            raise BadRequest("one fallback key is kept for an algorithm")
        return (
            check_keys(body.one_time_keys, owner=owner, is_fallback=False),
            check_keys(body.fallback_keys, owner=owner, is_fallback=True),
        )

    async def _published(self, caller: Caller) -> DeviceKeys:
        async with self._unit_of_work.snapshot() as unit:
            keys = await unit.keys.device_keys(caller.device_number)
        if keys is None:
            raise BadRequest("upload device_keys first: one-time keys are signed by them")
        return keys

    async def _add_one_time_keys(self, keys: Keys, device: DeviceNumber, uploaded: Sequence[PublishedKey]) -> None:
        if not uploaded:
            return
        known = await keys.known_hashes(device, [key.key_id for key in uploaded])
        conflicts = [key.key_id for key in uploaded if known.get(key.key_id, key.value_hash) != key.value_hash]
        if conflicts:
            raise KeyConflict(f"{conflicts[0]} was uploaded before with another value")
        new = [key for key in uploaded if key.key_id not in known]
        held = (await keys.counts(device)).counts.get(SIGNED_CURVE25519, 0)
        if new and held + len(new) > self._one_time_keys_max:
            raise QuotaExceeded(quota="one_time_keys_max", count_max=self._one_time_keys_max)
        await keys.add_one_time_keys(device, new)


def _chosen(
    devices: Mapping[DeviceId, DeviceKeys], names: Collection[DeviceId]
) -> Iterator[tuple[DeviceId, DeviceKeys]]:
    """Matrix's filter: no names, all devices."""
    return ((device, keys) for device, keys in devices.items() if not names or device in names)


def _answer(
    numbers: Mapping[Address, DeviceNumber], claimed: Mapping[DeviceNumber, tuple[str, SignedKey]]
) -> ClaimedKeys:
    answer: dict[UserId, dict[DeviceId, dict[str, SignedKey]]] = {}
    for (user, device), number in numbers.items():
        if number in claimed:
            key_id, key = claimed[number]
            answer.setdefault(user, {})[device] = {key_id: key}
    return ClaimedKeys(one_time_keys=answer)
