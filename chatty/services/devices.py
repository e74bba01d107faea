"""A user's devices: listed, renamed, put in the set by their first keys, revoked.

A device is made by registration or log-in, live and outside the set; the set is what others encrypt for. Its first keys put it
in; revocation takes it out and kills it for ever. Each change of the set raises the list version of its user and owes every
joined room a `devices` event, in one transaction: usable or dead, with no state between. No room is locked here; the journal
pays.

Order of locks in every step: the user's row, then the device's send row. What is read is read after them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from chatty.errors import DeviceRevoked, KeyConflict, NotFound
from chatty.ids import DeviceId, DeviceNumber, ListVersion, RoomNumber, SendNumber, Seq, UserNumber
from chatty.services.caller import Caller
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.units import Audit, Transactions
from chatty.wire import accounts
from chatty.wire.keys import DeviceKeys
from chatty.wire.rooms import SendState
from chatty.wire.signing import matrix_signed_bytes


@dataclass(frozen=True, kw_only=True)
class StoredDevice:
    """A live device. last_seen_day: YYYY-MM-DD. keys: None before its first upload."""

    number: DeviceNumber
    device: DeviceId
    name: str
    last_seen_day: str
    in_set: bool
    keys: DeviceKeys | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class ListChange:
    """version: the user's new list version. rooms: those that are owed a `devices` event."""

    version: ListVersion
    rooms: Sequence[RoomNumber]


def is_same(published: DeviceKeys, offered: DeviceKeys) -> bool:
    """Are these the very same keys? Another signature over them makes no difference."""
    return _signed_part(published) == _signed_part(offered)


def _signed_part(keys: DeviceKeys) -> bytes:
    return matrix_signed_bytes(msgspec.to_builtins(keys))


# Port ---------------------------------------------------------------------------------------------------------------


class Devices(Protocol):
    """What the steps need of the store, inside one transaction."""

    async def lock_user(self, user: UserNumber) -> None: ...

    async def live(self, user: UserNumber) -> Sequence[StoredDevice]:
        """In the order in which they were made."""
        ...

    async def live_count(self, user: UserNumber) -> int: ...
    async def rename(self, device: DeviceNumber, name: str) -> None: ...

    async def publish(self, device: DeviceNumber, keys: DeviceKeys) -> None:
        """Keep the keys and put the device in the set; its user's row is locked."""
        ...

    async def kill(self, device: DeviceNumber) -> None:
        """Lock its send row; take its right to send, its place in the set and its families; tell every node."""
        ...

    async def tell_nodes(self, user: UserNumber) -> None:
        """Every node looks anew at what the user's live devices may do; the user's row is locked."""
        ...

    async def send_state(self, device: DeviceNumber) -> tuple[SendNumber, SendNumber]:
        """(highest n, low)."""
        ...

    async def list_version(self, user: UserNumber) -> ListVersion: ...

    async def change_list(self, user: UserNumber) -> ListChange:
        """Raise the list version, digest the set as it is now, owe every joined room; the user's row is locked."""
        ...

    async def tell_user(self, user: UserNumber, *, kind: str, content: dict[str, Any], time_ms: int) -> None:
        """Append to the user's stream; the user's row is locked."""
        ...


class DevicesUnit(Protocol):
    """What these steps need of a transaction."""

    @property
    def audit(self) -> Audit: ...
    @property
    def devices(self) -> Devices: ...


# Steps --------------------------------------------------------------------------------------------------------------


async def lock_caller(unit: DevicesUnit, caller: Caller) -> Sequence[StoredDevice]:
    """Lock the caller's user row and look at the calling device once more: the request may have waited. All that live.

    Call it before any other lock of the transaction. Raises: DeviceRevoked.
    """
    await unit.devices.lock_user(caller.user_number)
    living = await unit.devices.live(caller.user_number)
    if _find(living, caller.device) is None:
        raise DeviceRevoked("this log-in session was ended")
    return living


async def publish_keys(unit: DevicesUnit, caller: Caller, keys: DeviceKeys, *, now_ms: int) -> Doorbell:
    """Keep the calling device's identity keys, for ever; the first ones put it in the set. The keys are checked already.

    Takes the user's row lock: call it before any other lock of the transaction, and ring what it returns after the commit.
    Raises: KeyConflict for other keys than those published, DeviceRevoked.
    """
    device = _find(await lock_caller(unit, caller), caller.device)
    assert device is not None, "lock_caller() found it"
    if device.keys is not None:
        if not is_same(device.keys, keys):
            raise KeyConflict("a device keeps its first keys; sign in anew for others")
        return Doorbell()
    await unit.devices.publish(device.number, keys)
    await _record(
        unit, caller, "device.keys_published", device.device, before=_state(device), after={"state": "in_set"}
    )
    return await _tell_everybody(unit, caller.user_number, now_ms)


async def revoke(unit: DevicesUnit, caller: Caller, device_id: DeviceId, *, now_ms: int) -> Doorbell:
    """Kill one of the caller's devices; ring what it returns after the commit. Raises: NotFound, DeviceRevoked."""
    device = _find(await lock_caller(unit, caller), device_id)
    if device is None:
        raise NotFound("you have no such device")
    await _record(unit, caller, "device.revoked", device_id, before=_state(device), after={"state": "revoked"})
    return await _end(unit, caller.user_number, [device], now_ms)


async def end_device(unit: DevicesUnit, user: UserNumber, device_id: DeviceId, *, now_ms: int) -> Doorbell:
    """Kill a device by the server's own decision, if it lives; the user's row is locked, and who calls it records why."""
    device = _find(await unit.devices.live(user), device_id)
    return Doorbell() if device is None else await _end(unit, user, [device], now_ms)


async def end_devices(unit: DevicesUnit, user: UserNumber, *, now_ms: int) -> Doorbell:
    """Kill all that live, as end_device() does with one; `revoked` of what it returns says which."""
    return await _end(unit, user, await unit.devices.live(user), now_ms)


async def revoke_others(unit: DevicesUnit, caller: Caller, *, now_ms: int) -> Doorbell:
    """Kill all of the caller's devices but the calling one; `revoked` says which. Raises: DeviceRevoked."""
    others = [one for one in await lock_caller(unit, caller) if one.device != caller.device]
    for one in others:
        await _record(unit, caller, "device.revoked", one.device, before=_state(one), after={"state": "revoked"})
    return await _end(unit, caller.user_number, others, now_ms)


async def _end(unit: DevicesUnit, user: UserNumber, devices: Sequence[StoredDevice], now_ms: int) -> Doorbell:
    """One change of the list, however many devices leave it. devices: in the order of their numbers."""
    if not devices:
        return Doorbell()
    for device in devices:
        await unit.devices.kill(device.number)
    if any(device.in_set for device in devices):
        doorbell = await _tell_everybody(unit, user, now_ms)
    else:
        doorbell = await tell_own_devices(unit, user, now_ms=now_ms)
    return Doorbell(rooms=doorbell.rooms, users=doorbell.users, revoked=[device.number for device in devices])


class DeviceSteps:
    """clock_ms: milliseconds since 1970."""

    def __init__(
        self, *, unit_of_work: Transactions[DevicesUnit], doorbells: Doorbells, clock_ms: Callable[[], int]
    ) -> None:
        self._unit_of_work = unit_of_work
        self._doorbells = doorbells
        self._clock_ms = clock_ms

    async def list_own(self, caller: Caller) -> accounts.Devices:
        """The caller's live devices. Until cross-signing exists none is verified."""
        async with self._unit_of_work.autocommit() as unit:
            found = await unit.devices.live(caller.user_number)
        return accounts.Devices(devices=[_shown(device, caller) for device in found])

    async def send_state(self, caller: Caller) -> SendState:
        """The numbers of the calling device, as the server knows them."""
        async with self._unit_of_work.autocommit() as unit:
            highest_n, low = await unit.devices.send_state(caller.device_number)
        return SendState(device=caller.device, highest_n=Seq(highest_n), low=Seq(low))

    async def rename(self, caller: Caller, device_id: DeviceId, *, name: str) -> None:
        """Raises: NotFound, DeviceRevoked."""
        async with self._unit_of_work.begin() as unit:
            device = _find(await lock_caller(unit, caller), device_id)
            if device is None:
                raise NotFound("you have no such device")
            await unit.devices.rename(device.number, name)
            await _record(unit, caller, "device.renamed", device_id)
            doorbell = await tell_own_devices(unit, caller.user_number, now_ms=self._clock_ms())
        self._doorbells.ring(doorbell)

    async def revoke(self, caller: Caller, device_id: DeviceId) -> None:
        """End one of the caller's devices, perhaps the calling one. Raises: NotFound, DeviceRevoked."""
        async with self._unit_of_work.begin() as unit:
            doorbell = await revoke(unit, caller, device_id, now_ms=self._clock_ms())
        self._doorbells.ring(doorbell)

    async def revoke_others(self, caller: Caller) -> None:
        """End all of the caller's devices but the calling one, in one transaction. Raises: DeviceRevoked."""
        async with self._unit_of_work.begin() as unit:
            doorbell = await revoke_others(unit, caller, now_ms=self._clock_ms())
        self._doorbells.ring(doorbell)


async def tell_own_devices(
    unit: DevicesUnit, user: UserNumber, *, now_ms: int, list_version: ListVersion | None = None
) -> Doorbell:
    """A change that others need not know of: tell the user's own devices. The user's row is locked.

    list_version: where it was read under the lock already.
    """
    version = await unit.devices.list_version(user) if list_version is None else list_version
    await unit.devices.tell_user(user, kind="devices", content={"list_version": version}, time_ms=now_ms)
    return Doorbell(users=[user])


async def tell_security(unit: DevicesUnit, user: UserNumber, *, what: str, device: DeviceId, now_ms: int) -> Doorbell:
    """A notice to all of the user's devices that something happened to one of them. The user's row is locked."""
    await unit.devices.tell_user(user, kind="security", content={"what": what, "device": device}, time_ms=now_ms)
    return Doorbell(users=[user])


async def _tell_everybody(unit: DevicesUnit, user: UserNumber, now_ms: int) -> Doorbell:
    change = await unit.devices.change_list(user)
    doorbell = await tell_own_devices(unit, user, now_ms=now_ms)
    return Doorbell(rooms=change.rooms, users=doorbell.users)


async def _record(
    unit: DevicesUnit,
    caller: Caller,
    action: str,
    device: DeviceId,
    *,
    before: Mapping[str, str] | None = None,
    after: Mapping[str, str] | None = None,
) -> None:
    """A name is no part of it: what people choose to write would stay for ever."""
    await unit.audit.record(
        actor=caller.user, device=caller.device, action=action, object_=device, before=before, after=after
    )


def _state(device: StoredDevice) -> dict[str, str]:
    return {"state": "in_set" if device.in_set else "without_keys"}


def _find(devices: Sequence[StoredDevice], wanted: DeviceId) -> StoredDevice | None:
    return next((device for device in devices if device.device == wanted), None)


def _shown(device: StoredDevice, caller: Caller) -> accounts.Device:
    return accounts.Device(
        device=device.device,
        name=device.name,
        last_seen_day=device.last_seen_day,
        is_verified=False,
        in_set=device.in_set,
        is_current=device.number == caller.device_number,
    )
