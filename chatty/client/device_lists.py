"""Other users' devices, as far as they were verified.

A key answer is believed only when, for each user: the identity key is the one pinned at first sight; each device signed its own
keys; no known device id has other keys than before (devices that left the set included); the digest over the devices is the one
that the answer names, and at this version the same one that a room's chain or an earlier answer named.

What this cannot see until cross-signing exists: a device that the server itself added to a user's list (docs/security.md).
Bounds: digests of the newest `digests_max` versions of a user are remembered; users and devices grow with those met.
"""

from collections.abc import Callable, Iterable

from msgspec import Struct, to_builtins

from chatty.client.reasons import Lie, Reason
from chatty.crypto.signatures import check_curve25519_key, check_ed25519_key, verify_matrix_object
from chatty.errors import BadKey, BadSignature
from chatty.ids import DeviceId, ListVersion, UserId
from chatty.wire.canonical import encode_base64
from chatty.wire.chain import device_list_digest
from chatty.wire.keys import DeviceKeys, DeviceList, KeyAnswer

digests_max = 64


class KnownDevice(Struct, frozen=True, kw_only=True):
    """curve25519 is empty for a device that had left the set before we first saw it: it can only prove old signatures."""

    device: DeviceId
    ed25519: str
    curve25519: str = ""
    in_set: bool = True


class UserKeys(Struct, kw_only=True):
    """One user as known here. identity: pinned; version −1: no list seen yet."""

    identity: str = ""
    version: int = -1
    devices: dict[DeviceId, KnownDevice] = {}
    digests: dict[int, str] = {}


class DeviceLists:
    """The lists of everybody met. `save` is called with each user that changed, inside the caller's transaction."""

    def __init__(self, users: dict[UserId, UserKeys], *, save: Callable[[UserId, UserKeys], None]) -> None:
        self._users = users
        self._save = save

    def version(self, user: UserId) -> int:
        """Of the newest verified list; −1: none."""
        return self._of(user).version

    def identity(self, user: UserId) -> str:
        """The pinned identity key; empty: never seen."""
        return self._of(user).identity

    def device(self, user: UserId, device: DeviceId) -> KnownDevice | None:
        return self._of(user).devices.get(device)

    def signing_key(self, user: UserId, device: DeviceId) -> str | None:
        """Ed25519 key of a device, also of one that has left the set."""
        known = self.device(user, device)
        return None if known is None else known.ed25519

    def in_set(self, user: UserId) -> list[KnownDevice]:
        """The devices that a message to this user is encrypted for."""
        return [known for known in self._of(user).devices.values() if known.in_set]

    def accept(self, user: UserId, answer: KeyAnswer) -> None:
        """Take one user's part of a key answer in; unknown users are in none. Raises: Lie; then nothing was taken."""
        listed = answer.device_lists.get(user)
        if listed is not None:
            self._accept_user(user, listed, list(answer.device_keys.get(user, {}).items()))

    def _accept_user(self, user: UserId, listed: DeviceList, devices: list[tuple[DeviceId, DeviceKeys]]) -> None:
        known = self._of(user)
        self.check_identity(user, listed.identity_key)
        for device, keys in devices:
            self.check_own_signature(user, device, keys)
            self.check_keys_unchanged(user, device, ed25519=keys.ed25519, curve25519=keys.curve25519)
        for device, ed25519 in listed.removed.items():
            self.check_keys_unchanged(user, device, ed25519=ed25519)
        self.check_digest(user, listed, devices)
        self.check_named_digest(user, listed.list_version, listed.list_digest)
        if listed.list_version >= known.version:
            self._take(user, listed, devices)

    def _take(self, user: UserId, listed: DeviceList, devices: list[tuple[DeviceId, DeviceKeys]]) -> None:
        known = self._of(user)
        fresh = {
            device: KnownDevice(device=device, ed25519=keys.ed25519, curve25519=keys.curve25519)
            for device, keys in devices
        }
        gone = {
            device: KnownDevice(device=device, ed25519=old.ed25519, curve25519=old.curve25519, in_set=False)
            for device, old in known.devices.items()
            if device not in fresh
        }
        for device, ed25519 in listed.removed.items():
            gone.setdefault(device, KnownDevice(device=device, ed25519=ed25519, in_set=False))
        known.identity = listed.identity_key
        known.version = listed.list_version
        known.devices = {**gone, **fresh}
        self._remember(user, known, listed.list_version, listed.list_digest)

    def pin(self, user: UserId, identity: str) -> None:
        """Take the identity key that a signed event names. Raises: Lie if another one is pinned."""
        self.check_identity(user, identity)
        known = self._of(user)
        if not known.identity:
            known.identity = identity
            self._store(user, known)

    def know_own(self, user: UserId, own: KnownDevice) -> None:
        """This very device: no answer may name other keys for it. It is in the set once the server's list says so."""
        known = self._of(user)
        if own.device not in known.devices:
            known.devices[own.device] = own
            self._store(user, known)

    def note_digest(self, user: UserId, version: ListVersion, digest: str) -> None:
        """Take the digest that a room's chain names for a version. Raises: Lie if it is known to be another one."""
        self.check_named_digest(user, version, digest)
        known = self._of(user)
        if version not in known.digests:
            self._remember(user, known, version, digest)

    def begin_anew(self) -> None:
        """The server was restored: versions that are gone will be given again, to other lists. Keys and identities stay known."""
        for user, known in list(self._users.items()):
            known.version, known.digests = -1, {}
            self._store(user, known)

    # The checks: each is one rule, and each has a test in which the lie passes without it.

    def check_identity(self, user: UserId, identity: str) -> None:
        pinned = self._of(user).identity
        if pinned and identity != pinned:
            raise Lie(Reason.IDENTITY_CHANGED, f"{user} has another identity key than before", user=user)

    def check_own_signature(self, user: UserId, device: DeviceId, keys: DeviceKeys) -> None:
        try:
            if (keys.user_id, keys.device_id) != (user, device):
                raise BadSignature("the keys are another device's")
            check_ed25519_key(keys.ed25519)
            check_curve25519_key(keys.curve25519)
            key_id = f"ed25519:{device}"
            verify_matrix_object(to_builtins(keys), user=user, key_id=key_id, public_key=keys.ed25519)
        except (BadSignature, BadKey) as error:
            raise Lie(Reason.BAD_SIGNATURE, f"device {device} of {user}: {error}", user=user) from None

    def check_keys_unchanged(self, user: UserId, device: DeviceId, *, ed25519: str, curve25519: str = "") -> None:
        known = self.device(user, device)
        if known is None:
            return
        is_other_curve = bool(known.curve25519 and curve25519) and known.curve25519 != curve25519
        if known.ed25519 != ed25519 or is_other_curve:
            raise Lie(Reason.DEVICE_KEY_CHANGED, f"device {device} of {user} has other keys than before", user=user)

    def check_digest(self, user: UserId, listed: DeviceList, devices: Iterable[tuple[DeviceId, DeviceKeys]]) -> None:
        triples = [(device, keys.curve25519, keys.ed25519) for device, keys in devices]
        if encode_base64(device_list_digest(triples)) != listed.list_digest:
            raise Lie(Reason.DEVICE_LIST_MISMATCH, f"the list of {user} has not the digest it names", user=user)

    def check_named_digest(self, user: UserId, version: int, digest: str) -> None:
        named = self._of(user).digests.get(version)
        if named is not None and named != digest:
            raise Lie(Reason.DEVICE_LIST_MISMATCH, f"two lists of {user} at version {version}", user=user)

    def _remember(self, user: UserId, known: UserKeys, version: int, digest: str) -> None:
        known.digests[version] = digest
        for old in sorted(known.digests)[:-digests_max]:
            del known.digests[old]
        self._store(user, known)

    def _store(self, user: UserId, known: UserKeys) -> None:
        self._users[user] = known
        self._save(user, known)

    def _of(self, user: UserId) -> UserKeys:
        return self._users.get(user) or UserKeys()
