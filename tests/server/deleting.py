"""Deleting an account over plain HTTP, as the SDK does it, and waiting for the job that erases it.

token = await delete(ann)
receipt = await until_erased(chat.http, token)
"""

import secrets
from hashlib import sha256
from typing import Any

import httpx
import msgspec
import trio

from chatty.wire.canonical import encode_base64, encode_base64url
from chatty.wire.deletions import Receipt, StoreReceipt
from tests.server.wire_people import WireDevice

PATH = "/v1/account"
# As if the user had added a passkey and got a recovery code with it, and had made an invitation.
FACTORS = """WITH someone AS (SELECT user_number FROM users WHERE user_id = %s),
code AS (INSERT INTO recovery_codes SELECT user_number, %s::bytea FROM someone),
invitation AS (INSERT INTO registration_tokens (token_hash, role, uses_left, expires_at, inviter_number)
 SELECT %s::bytea, 'user', 3, now() + interval '1 day', user_number FROM someone)
INSERT INTO passkeys (user_number, credential_id, public_key, sign_count, transports, name, wrapped_recovery)
SELECT user_number, %s, %s::bytea, 0, '{}', %s, %s::bytea FROM someone"""
erased_within_s = 20.0  # the job looks every second


async def body_of(
    device: WireDevice, raw_token: bytes, *, purpose: str = "delete_account", **how: Any
) -> dict[str, Any]:
    """how: as Person.sign() takes it."""
    receipt_hash = sha256(raw_token).digest()
    nonce = await device.person.nonce()
    signature = device.person.sign(nonce, purpose, **({"about": receipt_hash} | how))
    return {"receipt_hash": encode_base64(receipt_hash), "nonce": nonce, "signature": signature}


async def ask_to_delete(device: WireDevice, **how: Any) -> tuple[str, httpx.Response]:
    """The receipt's token, and whatever the server says."""
    raw = secrets.token_bytes(32)
    return encode_base64url(raw), await device.answer("DELETE", PATH, await body_of(device, raw, **how))


async def delete(device: WireDevice) -> str:
    """Returns the receipt's token: by then nobody can use the account, and most of it is still there."""
    token, answer = await ask_to_delete(device)
    assert answer.status_code == 202, answer.text
    return token


async def receipt_of(http: httpx.AsyncClient, token: str) -> Receipt:
    answer = await http.get(f"/v1/receipts/{token}")
    assert answer.status_code == 200, answer.text
    return msgspec.json.decode(answer.content, type=Receipt)


async def until_erased(http: httpx.AsyncClient, token: str) -> Receipt:
    with trio.fail_after(erased_within_s):
        while True:
            receipt = await receipt_of(http, token)
            if receipt.finished is not None:
                return receipt
            await trio.sleep(0.02)


def by_store(receipt: Receipt) -> dict[str, StoreReceipt]:
    return {one.store: one for one in receipt.stores}
