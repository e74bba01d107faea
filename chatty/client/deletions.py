"""Deleting the own account: asked for with the password, settled by a receipt that this client alone can open.

The client chooses the receipt's token and sends its hash, so that a lost answer loses nothing: the receipt then says whether the
account is gone.
"""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256

from chatty.client.errors import Unreachable
from chatty.client.http import Api
from chatty.client.passwords import OwnPassword
from chatty.errors import DeviceRevoked, LoginRefused, NotFound, OutcomeUnknown, Unauthenticated
from chatty.wire.canonical import encode_base64, encode_base64url
from chatty.wire.deletions import AccountDeletion, Receipt


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """token: opens the receipt, for 30 days after the end; keep it. receipt: how far the server is."""

    token: str
    receipt: Receipt


async def delete_account(api: Api, own: OwnPassword, password: str) -> Deletion:
    """Raises: LastOwner (of the server), Unreachable (perhaps it was done), and as OwnPassword.step_up()."""
    raw = secrets.token_bytes(32)
    token, receipt_hash = encode_base64url(raw), sha256(raw).digest()

    async def ask() -> Receipt:
        """With a nonce of its own."""
        nonce, signature = await own.sign(password, purpose="delete_account", about=receipt_hash)
        body = AccountDeletion(receipt_hash=encode_base64(receipt_hash), nonce=nonce, signature=signature)
        return await _settled(api, token, lambda: api.delete_account(body))

    return Deletion(token=token, receipt=await own.proven(ask, password))


async def _settled(api: Api, token: str, ask: Callable[[], Awaitable[Receipt]]) -> Receipt:
    """An answer that was lost, or a refusal of who is gone already: the receipt says which."""
    try:
        return await ask()
    except (Unreachable, OutcomeUnknown, LoginRefused, DeviceRevoked, Unauthenticated) as error:
        try:
            return await api.receipt(token)
        except NotFound:
            raise error from None
