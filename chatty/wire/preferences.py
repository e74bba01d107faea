"""Bodies: what a user lets others see."""

from chatty.wire.accounts import HttpBody


class Preferences(HttpBody, frozen=True, kw_only=True):
    """GET and PUT /v1/account/preferences."""

    shows_presence: bool
    shows_receipts: bool
