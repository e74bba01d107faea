"""Devices with real Olm keys, for tests: what they upload is Matrix's JSON, made and signed by vodozemac."""

from dataclasses import dataclass, field
from typing import Any

import msgspec
from vodozemac import Account

from chatty.ids import DeviceId, UserId
from chatty.wire.keys import DeviceKeys, KeyUpload, SignedKey
from chatty.wire.signing import matrix_signed_bytes

ALGORITHMS = ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"]


@dataclass(frozen=True, kw_only=True)
class OlmDevice:
    """One device and its Olm account. Every method makes JSON as it is on the network; the `…_upload` ones, Structs."""

    user: UserId
    device: DeviceId
    account: Account = field(default_factory=Account)

    @property
    def ed25519(self) -> str:
        return self.account.ed25519_key.to_base64()

    @property
    def curve25519(self) -> str:
        return self.account.curve25519_key.to_base64()

    def signed(self, value: dict[str, Any]) -> dict[str, Any]:
        """The object with this device's signature as its only one."""
        signature = self.account.sign(matrix_signed_bytes(value)).to_base64()
        return {**value, "signatures": {self.user: {f"ed25519:{self.device}": signature}}}

    def device_keys(self, **changed: Any) -> dict[str, Any]:
        """The device's identity keys; what is changed is signed too."""
        keys = {f"curve25519:{self.device}": self.curve25519, f"ed25519:{self.device}": self.ed25519}
        value = {"user_id": self.user, "device_id": self.device, "algorithms": ALGORITHMS, "keys": keys}
        return self.signed({**value, **changed})

    def one_time_keys(self, count: int) -> dict[str, Any]:
        """As many new ones, marked as published."""
        self.account.generate_one_time_keys(count)
        keys = {f"signed_curve25519:{id_}": key.to_base64() for id_, key in self.account.one_time_keys.items()}
        self.account.mark_keys_as_published()
        return {key_id: self.signed({"key": key}) for key_id, key in keys.items()}

    def fallback_key(self) -> dict[str, Any]:
        """A new one; the account forgets the one before the last."""
        self.account.generate_fallback_key()  # type: ignore[attr-defined]  # the stubs lack it
        made = self.account.fallback_key  # type: ignore[attr-defined]
        keys = {f"signed_curve25519:{id_}": key.to_base64() for id_, key in made.items()}
        self.account.mark_keys_as_published()
        return {key_id: self.signed({"key": key, "fallback": True}) for key_id, key in keys.items()}

    def upload(self, *, one_time_keys_count: int = 0, with_fallback: bool = False) -> KeyUpload:
        """What a new device sends first."""
        return KeyUpload(
            device_keys=msgspec.convert(self.device_keys(), DeviceKeys),
            one_time_keys=as_keys(self.one_time_keys(one_time_keys_count)),
            fallback_keys=as_keys(self.fallback_key() if with_fallback else {}),
        )


def as_keys(value: dict[str, Any]) -> dict[str, SignedKey]:
    return msgspec.convert(value, dict[str, SignedKey])
