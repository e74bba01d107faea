"""TOTP (RFC 6238), as authenticator apps have it: HMAC-SHA-1 over the number of a 30 s step, six digits.

A step's code is taken once, and only codes of steps after it are taken later: so one that was read over somebody's shoulder is
worth nothing. Clocks may differ by one step.
"""

import hmac
from base64 import b32encode

import pyotp

from chatty.ids import UserId

secret_bytes = 20  # what RFC 4226 recommends: as long as the hash
step_s = 30
steps_around = 1


def secret_text(secret: bytes) -> str:
    """Base32, as people type it into an app."""
    return b32encode(secret).decode("ascii")


def app_uri(secret: bytes, *, user: UserId, issuer: str) -> str:
    """otpauth://…, for a QR code. Source: Google Authenticator's "Key Uri Format"."""
    return _totp(secret).provisioning_uri(name=user, issuer_name=issuer)


def code(secret: bytes, step: int) -> str:
    """Six digits."""
    return _totp(secret).generate_otp(step)


def matching_step(secret: bytes, shown: str, *, now_s: float, after_step: int) -> int | None:
    """Of which step the shown code is, among those around now and after after_step; None: of none."""
    now = step_at(now_s)
    steps = range(max(now - steps_around, after_step + 1), now + steps_around + 1)
    found = [step for step in steps if hmac.compare_digest(code(secret, step).encode(), shown.encode())]
    return found[0] if found else None


def step_at(now_s: float) -> int:
    return int(now_s) // step_s


def _totp(secret: bytes) -> pyotp.TOTP:
    return pyotp.TOTP(secret_text(secret), interval=step_s)
