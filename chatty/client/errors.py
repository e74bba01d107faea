"""The server's errors, as the same classes that it raised: by their stable code, from a problem detail or an error frame."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar

from chatty.errors import (
    ChattyError,
    DeviceSetStale,
    ExpiryRefused,
    MailboxQuotaExceeded,
    MessageIdClosed,
    MessageIdConflict,
    Overloaded,
    QuotaExceeded,
    RateLimited,
    SecondFactorRequired,
    SendWindowFull,
    StepUpRequired,
    TooLarge,
)
from chatty.ids import SendNumber, Seq

Details = Mapping[str, Any]
retry_after_s_max = 300.0


class RemoteError(ChattyError):
    """An error of a code that this client does not know, or an answer that is none. `remote_code`: as the server named it."""

    code: ClassVar[str] = "remote_error"

    def __init__(self, message: str, *, remote_code: str = "", is_retryable_remotely: bool = False) -> None:
        super().__init__(message)
        self.remote_code = remote_code
        self.is_retryable_remotely = is_retryable_remotely


class Unreachable(ChattyError):
    """No answer: the connection could not be made or broke. What was asked may or may not have been done."""

    code: ClassVar[str] = "unreachable"
    is_retryable: ClassVar[bool] = True
    exit_code: ClassVar[int] = 3


def is_retryable(error: ChattyError) -> bool:
    return error.is_retryable or (isinstance(error, RemoteError) and error.is_retryable_remotely)


def error_from(
    code: str, message: str, *, is_retryable: bool, retry_after_s: float | None, details: Details
) -> ChattyError:
    """The error behind a code. What does not fit its class's form becomes a RemoteError: the server's word is never an exception
    of another kind."""
    try:
        build = _builders().get(code)
        if build is not None:
            wait_s = min(max(float(retry_after_s or 0.0), 0.0), retry_after_s_max)
            return build(message, {**details, "retry_after_s": wait_s})
    except (KeyError, TypeError, ValueError):
        pass
    return RemoteError(message, remote_code=code, is_retryable_remotely=is_retryable)


@cache
def _builders() -> dict[str, Callable[[str, Details], ChattyError]]:
    """By code. Classes whose constructor wants more than a message are named; the others are found in the tree."""
    named: dict[type[ChattyError], Callable[[str, Details], ChattyError]] = {
        DeviceSetStale: _device_set_stale,
        ExpiryRefused: lambda _, details: ExpiryRefused(time=int(details["time"])),
        SecondFactorRequired: _second_factor_required,
        StepUpRequired: lambda _, details: StepUpRequired(age_s_max=float(details["age_s_max"])),
        TooLarge: lambda _, details: TooLarge(limit=str(details["limit"]), bytes_max=int(details["bytes_max"])),
    }
    for number_class in (MessageIdConflict, MessageIdClosed, SendWindowFull):
        named[number_class] = _about_number(number_class)
    for load_class in (Overloaded, RateLimited):
        named[load_class] = _about_load(load_class)
    for quota_class in (QuotaExceeded, MailboxQuotaExceeded):
        named[quota_class] = _about_quota(quota_class)
    found = {leaf.code: _plain(leaf) for leaf in _tree(ChattyError)}
    return found | {leaf.code: build for leaf, build in named.items()}


def _tree(root: type[ChattyError]) -> list[type[ChattyError]]:
    return [leaf for child in root.__subclasses__() for leaf in (child, *_tree(child))]


def _plain(leaf: type[ChattyError]) -> Callable[[str, Details], ChattyError]:
    return lambda message, _: leaf(message)


def _device_set_stale(_: str, details: Details) -> ChattyError:
    changed = {item["user"]: item.get("list_version") for item in details["changed"]}
    return DeviceSetStale(epoch=Seq(int(details["epoch"])), changed=changed)


def _second_factor_required(_: str, details: Details) -> ChattyError:
    return SecondFactorRequired(
        factors=[str(one) for one in details["factors"]],
        rp_id=str(details["rp_id"]),
        allow_credentials=list(details["allow_credentials"]),
    )


def _about_number(
    leaf: type[MessageIdConflict] | type[MessageIdClosed] | type[SendWindowFull],
) -> Callable[[str, Details], ChattyError]:
    def build(_: str, details: Details) -> ChattyError:
        return leaf(highest_n=SendNumber(int(details["highest_n"])), low=SendNumber(int(details["low"])))

    return build


def _about_load(leaf: type[Overloaded]) -> Callable[[str, Details], ChattyError]:
    return lambda _, details: leaf(limiter=str(details["limiter"]), retry_after_s=details["retry_after_s"])


def _about_quota(leaf: type[QuotaExceeded]) -> Callable[[str, Details], ChattyError]:
    return lambda _, details: leaf(quota=str(details["quota"]), count_max=int(details["count_max"]))
