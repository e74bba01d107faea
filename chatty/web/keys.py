"""Routes: upload, query and claim keys, in Matrix's shapes."""

from chatty.errors import BadKey, BadSignature, KeyConflict, OutcomeUnknown, QuotaExceeded
from chatty.services.caller import Caller
from chatty.services.keys import KeySteps
from chatty.services.permissions import CHAT, SIGNED_IN
from chatty.web.routes import NumberedRequest, Route, route
from chatty.wire.keys import ClaimedKeys, KeyAnswer, KeyClaim, KeyCounts, KeyQuery, KeyUpload


def routes(keys: KeySteps) -> list[Route]:
    @route(
        "POST",
        "/v1/keys/upload",
        permission=CHAT,
        errors=(BadKey, BadSignature, KeyConflict, QuotaExceeded, OutcomeUnknown),
    )
    async def upload(caller: Caller, body: KeyUpload) -> KeyCounts:
        """Publish keys of the calling device, all or none; the first device_keys put it in its user's set."""
        return await keys.upload(caller, body)

    @route("POST", "/v1/keys/query", permission=SIGNED_IN)
    async def query(caller: Caller, body: KeyQuery) -> KeyAnswer:
        """Device lists and device keys of users, as of one moment; unknown users are left out."""
        return await keys.query(caller, body)

    @route("POST", "/v1/keys/claim", permission=CHAT)
    async def claim(caller: Caller, body: KeyClaim, request: NumberedRequest) -> ClaimedKeys:
        """Hand out one key a device: each one-time key once for ever, the fallback key when none is left."""
        return await keys.claim(caller, body, n=request.n, low=request.low)

    return [upload, query, claim]
