"""HTTP bodies about the deletion of an account and its receipt (docs/protocol.md, "Deletion")."""

from typing import Annotated

from msgspec import Meta

from chatty.wire.accounts import HttpBody
from chatty.wire.types import HeadField, ServerNameField, SignatureField, TimeMsField, TokenField, UserIdField

ReceiptTokenField = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}$(?!\n)")]


class AccountDeletion(HttpBody, frozen=True, kw_only=True):
    """DELETE /v1/account. receipt_hash: SHA-256 of a token of the client's choice, unpadded base64, which opens the receipt.

    `signature`: login_bytes with purpose "delete_account" about receipt_hash.
    """

    receipt_hash: HeadField
    nonce: TokenField
    signature: SignatureField


class StoreReceipt(HttpBody, frozen=True, kw_only=True):
    """What became of the rows about the user in one store. kept: what is still there, and why."""

    store: str
    is_done: bool
    erased_count: int
    kept_count: int
    kept: str = ""


class Receipt(HttpBody, frozen=True, kw_only=True):
    """GET /v1/receipts/{token}. Signed by nobody: the server's own account of what it did. Times are ms since 1970."""

    format: int
    server: ServerNameField
    began: TimeMsField
    finished: TimeMsField | None
    stores: list[StoreReceipt]


class DeletedUser(HttpBody, frozen=True, kw_only=True):
    """What the console shows of a deletion by the operator. receipt: the token that opens the receipt, told once."""

    user: UserIdField
    receipt: ReceiptTokenField
