"""This device's Olm account: its identity keys, its one-time keys, and sessions with other devices.

Olm binds no identities, so each payload names sender, recipient and both devices' Ed25519 keys, and the receiver checks all four
(else somebody passes a key on as its own: unknown key share). The library refuses a message that was decrypted before.
*Store first*: every method that moves a ratchet writes it in the caller's transaction.
*Bounds*: 50 one-time keys are kept up on the server; of the sessions with one device the newest `sessions_max` are kept.
"""

from typing import Any

import msgspec
from msgspec import Struct, to_builtins
from vodozemac import (
    Account,
    AnyOlmMessage,
    Curve25519PublicKey,
    DecodeException,
    KeyException,
    OlmDecryptionException,
    Session,
    SessionCreationException,
)

from chatty.client.device_lists import KnownDevice
from chatty.client.reasons import Lie, Reason, Unreadable
from chatty.client.store import LocalStore
from chatty.crypto.signatures import check_curve25519_key, verify_matrix_object
from chatty.errors import BadKey, BadRequest, BadSignature
from chatty.ids import DeviceId, RoomId, UserId
from chatty.wire.canonical import decode_base64, encode_base64
from chatty.wire.events import MEGOLM, OLM
from chatty.wire.keys import SIGNED_CURVE25519, DeviceKeys, OlmContent, SignedKey
from chatty.wire.signing import matrix_signed_bytes

one_time_keys_kept = 50
sessions_max = 5
_ACCOUNT, _SESSIONS = "olm_account", "olm_sessions"


class Sessions(Struct, kw_only=True):
    """With one device; the newest first. may_send: false after the store was rolled back, then they only decrypt."""

    pickles: list[str] = []
    may_send: bool = True


class RoomKeyContent(Struct, frozen=True, kw_only=True):
    algorithm: str
    room_id: RoomId
    session_id: str
    session_key: str


class OlmPayload(Struct, frozen=True, kw_only=True):
    """What stands inside an Olm message; Matrix's shape. sender_device: OlmMachine leaves it out, the keys name the device."""

    type: str
    content: RoomKeyContent
    sender: UserId
    sender_device: DeviceId | None = None
    recipient: UserId
    recipient_keys: dict[str, str]
    keys: dict[str, str]


def load_account_pickle(store: LocalStore, device: DeviceId) -> str | None:
    """Sealed under the store's pickle key."""
    return store.get(_ACCOUNT, device, str)


class OlmAccount:
    """Made at the first start with this store, and loaded later."""

    def __init__(self, store: LocalStore, *, user: UserId, device: DeviceId) -> None:
        self._store = store
        self._user = user
        self._device = device
        pickle = load_account_pickle(store, device)
        self._account = Account() if pickle is None else Account.from_pickle(pickle, store.pickle_key)
        if pickle is None:
            self._save()

    def _save(self) -> None:
        self._store.put(_ACCOUNT, self._device, self._account.pickle(self._store.pickle_key))

    @property
    def ed25519(self) -> str:
        return self._account.ed25519_key.to_base64()

    @property
    def curve25519(self) -> str:
        return self._account.curve25519_key.to_base64()

    def sign(self, message: bytes) -> str:
        """Only bytes that begin with a domain of ours are signed with this key. Unpadded base64."""
        return self._account.sign(message).to_base64()

    # Keys that are published

    def device_keys(self) -> DeviceKeys:
        keys = {f"curve25519:{self._device}": self.curve25519, f"ed25519:{self._device}": self.ed25519}
        unsigned = DeviceKeys(
            user_id=self._user, device_id=self._device, algorithms=[OLM, MEGOLM], keys=keys, signatures={}
        )
        return msgspec.structs.replace(unsigned, signatures=self._signatures(unsigned))

    def one_time_keys(self, *, on_server_count: int) -> dict[str, SignedKey]:
        """Keys to upload so that the server has 50 again; on disk. Those that were not confirmed come again."""
        lacking = one_time_keys_kept - on_server_count - len(self._account.one_time_keys)
        if lacking > 0:
            self._account.generate_one_time_keys(lacking)
            self._save()
        return self._signed(self._account.one_time_keys, is_fallback=False)

    def fallback_key(self) -> dict[str, SignedKey]:
        """The fallback key to upload; a new one each time unless the last was not confirmed."""
        account: Any = self._account  # the stubs lack the fallback methods
        if not account.fallback_key:
            account.generate_fallback_key()
            self._save()
        return self._signed(account.fallback_key, is_fallback=True)

    def mark_published(self) -> None:
        """The upload was answered."""
        self._account.mark_keys_as_published()
        self._save()

    def _signed(self, keys: dict[str, Curve25519PublicKey], *, is_fallback: bool) -> dict[str, SignedKey]:
        signed = {}
        for key_id, key in keys.items():
            unsigned = SignedKey(key=key.to_base64(), signatures={}, fallback=is_fallback)
            whole = msgspec.structs.replace(unsigned, signatures=self._signatures(unsigned))
            signed[f"{SIGNED_CURVE25519}:{key_id}"] = whole
        return signed

    def _signatures(self, unsigned: DeviceKeys | SignedKey) -> dict[UserId, dict[str, str]]:
        signature = self.sign(matrix_signed_bytes(to_builtins(unsigned)))
        return {self._user: {f"ed25519:{self._device}": signature}}

    # Sessions with other devices

    def can_send(self, device: KnownDevice) -> bool:
        sessions = self._sessions(device.curve25519)
        return bool(sessions.pickles) and sessions.may_send

    def start_session(self, user: UserId, device: KnownDevice, claimed: SignedKey) -> None:
        """Make an outbound session of a claimed key. Raises: Lie if its device did not sign the key."""
        self.check_one_time_key(user, device, claimed)
        identity = Curve25519PublicKey.from_base64(device.curve25519)
        session = self._account.create_outbound_session(identity, Curve25519PublicKey.from_base64(claimed.key))
        self._keep_session(device.curve25519, session, may_send=True)

    def check_one_time_key(self, user: UserId, device: KnownDevice, claimed: SignedKey) -> None:
        try:
            key_id = f"ed25519:{device.device}"
            verify_matrix_object(to_builtins(claimed), user=user, key_id=key_id, public_key=device.ed25519)
            check_curve25519_key(claimed.key)
        except (BadSignature, BadKey) as error:
            raise Lie(Reason.BAD_ONE_TIME_KEY, f"of {device.device} of {user}: {error}", user=user) from None

    def encrypt_room_key(self, user: UserId, device: KnownDevice, content: RoomKeyContent) -> dict[str, Any]:
        """The to-device content for one device, with which can_send() holds."""
        sessions = self._sessions(device.curve25519)
        session = Session.from_pickle(sessions.pickles[0], self._store.pickle_key)
        payload = OlmPayload(
            type="m.room_key",
            content=content,
            sender=self._user,
            sender_device=self._device,
            recipient=user,
            recipient_keys={"ed25519": device.ed25519},
            keys={"ed25519": self.ed25519},
        )
        kind, body = session.encrypt(msgspec.json.encode(payload)).to_parts()
        sessions.pickles[0] = session.pickle(self._store.pickle_key)
        self._store.put(_SESSIONS, device.curve25519, sessions)
        ciphertext = {device.curve25519: {"type": kind, "body": encode_base64(body)}}
        return {"algorithm": OLM, "sender_key": self.curve25519, "ciphertext": ciphertext}

    def decrypt(self, content: OlmContent) -> OlmPayload:
        """Raises: Unreadable. Says nothing about who sent it: check_payload does."""
        mine = content.ciphertext.get(self.curve25519)
        if mine is None:
            raise Unreadable(Reason.UNKNOWN_KEY_SHARE, "encrypted for another device")
        try:
            message = AnyOlmMessage.from_parts(mine.type, decode_base64(mine.body))
            data = self._decrypt(content.sender_key, message)
            return msgspec.json.decode(data, type=OlmPayload)
        except (OlmDecryptionException, SessionCreationException, DecodeException, KeyException) as error:
            raise Unreadable(Reason.ALTERED_EVENT, str(error)) from None
        except (msgspec.DecodeError, BadRequest, UnicodeDecodeError, RecursionError) as error:
            raise Unreadable(Reason.MALFORMED_EVENT, str(error)) from None

    def _decrypt(self, sender_key: str, message: AnyOlmMessage) -> bytes:
        for index, pickle in enumerate(self._sessions(sender_key).pickles):
            session = Session.from_pickle(pickle, self._store.pickle_key)
            try:
                data = bytes(session.decrypt(message))
            except OlmDecryptionException:
                continue
            self._keep_session(sender_key, session, replacing=index)
            return data
        pre_key = message.to_pre_key()
        if pre_key is None:
            raise OlmDecryptionException("no session decrypts it")
        session, opened = self._account.create_inbound_session(Curve25519PublicKey.from_base64(sender_key), pre_key)
        with self._store.transaction():
            self._save()  # its one-time key is used up
            self._keep_session(sender_key, session, may_send=True)
        return bytes(opened)

    def _keep_session(
        self, key: str, session: Session, *, replacing: int | None = None, may_send: bool | None = None
    ) -> None:
        sessions = self._sessions(key)
        if replacing is not None:
            del sessions.pickles[replacing]
        sessions.pickles = [session.pickle(self._store.pickle_key), *sessions.pickles][:sessions_max]
        sessions.may_send = sessions.may_send if may_send is None else may_send
        self._store.put(_SESSIONS, key, sessions)

    def _sessions(self, key: str) -> Sessions:
        return self._store.get(_SESSIONS, key, Sessions) or Sessions()

    def forget_outbound(self) -> None:
        """The store was rolled back: what was sent with these ratchets would be sent with the same keys again."""
        for key, sessions in self._store.items(_SESSIONS, Sessions):
            sessions.may_send = False
            self._store.put(_SESSIONS, key, sessions)


class PayloadChecks:
    """Who an Olm payload is from and for, against what the mailbox row and the verified lists say. All raise Unreadable."""

    def __init__(self, *, user: UserId, ed25519: str) -> None:
        self._user = user
        self._ed25519 = ed25519

    def check(self, payload: OlmPayload, *, sender: UserId, known: KnownDevice, sender_key: str) -> None:
        """known: the verified device that the mailbox row names."""
        self.check_sender_key(known, sender_key)
        self.check_sender(payload, sender, known)
        self.check_recipient(payload)

    def check_sender_key(self, known: KnownDevice, sender_key: str) -> None:
        if not known.curve25519 or known.curve25519 != sender_key:
            raise Unreadable(Reason.WRONG_SESSION_OWNER, f"the Olm session is not that of {known.device}")

    def check_sender(self, payload: OlmPayload, sender: UserId, known: KnownDevice) -> None:
        device = known.device if payload.sender_device is None else payload.sender_device
        named = (payload.sender, device, payload.keys.get("ed25519"))
        if named != (sender, known.device, known.ed25519):
            raise Unreadable(Reason.UNKNOWN_KEY_SHARE, "the payload names another sender")

    def check_recipient(self, payload: OlmPayload) -> None:
        if (payload.recipient, payload.recipient_keys.get("ed25519")) != (self._user, self._ed25519):
            raise Unreadable(Reason.UNKNOWN_KEY_SHARE, "the payload was made for somebody else")
