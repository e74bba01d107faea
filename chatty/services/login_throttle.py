"""How fast passwords and second factors may be tried: delays that grow with failures, and never one that a stranger causes for
a known device.

An attempt is counted as failed before it is looked at, so a thousand at once are a thousand; success clears the count, and any
other outcome than "wrong" takes the one count back. In `logins_account` success too takes back only its own: were that count
cleared, strangers could tell by it that the name exists and that its owner has just logged in. Known and unknown names are
counted alike: the throttle never looks at the store.

| limiter | counts failures of | first without delay | longest delay |
|---|---|---|---|
| `logins_address` | one address, whatever the account: a token bucket | its burst | |
| `logins_account_address` | one account from one address | `login_free_count` | `login_delay_max_s` |
| `logins_account` | one account from anywhere unfamiliar | ten times as many | at most a minute |
| `logins_known_device` | one known device | `login_free_count` | `login_delay_max_s` |
| `second_factors_account` | one account, or one known device | `second_factor_free_count` | `second_factor_delay_max_s` |

Whoever tries somebody's name from many addresses runs into `logins_account`, and so does everybody else who is unfamiliar. Not
affected are: an address from which this account signed in or refreshed its tokens within a day, and an attempt that shows a
refresh token of one of the account's devices, living or not: that one has a count of its own, which nobody else can raise, and
takes nothing from `logins_address` either.

Second factors are tried only by who has the password. What has to wait is a TOTP code alone: a recovery code and a passkey cannot
be guessed, so whoever has one gets in while somebody else guesses codes. When so many failed that the next has to wait, the user
is told: somebody else has the password.

In memory, bounded like the buckets: beyond `subjects_max` the one that failed least recently is forgotten. What is a day
old means nothing any more; forget_old(), called every minute, drops it.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from chatty.errors import ChattyError, LoginRefused, SecondFactorRefused
from chatty.ids import DeviceId, UserId
from chatty.services.limits import Asker, Clock, Limits, subject_of_address, subjects_max

account_delay_max_s = 60.0
account_free_factor = 10
familiar_s = 86_400.0
forgotten_after_s = 86_400.0


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last_at_s: float = 0.0


class GrowingDelay:
    """free_count failures cost nothing; then 1 s, 2 s, 4 s … up to delay_max_s, from one failure to the next attempt.

    is_cleared: by a success; else that only takes back its own count.
    """

    def __init__(
        self, limiter: str, counts: str, *, free_count: int, delay_max_s: float, is_cleared: bool = True
    ) -> None:
        self.limiter = limiter
        self._counts = counts
        self._free_count = free_count
        self._delay_max_s = delay_max_s
        self._is_cleared = is_cleared
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def wait_s(self, subject: str, now_s: float) -> float:
        """0.0: it may be tried now."""
        known = self._failures.get(subject)
        if known is None or known.count < self._free_count:
            return 0.0
        delay_s = min(self._delay_max_s, 2.0 ** min(known.count - self._free_count, 30))
        return max(0.0, known.last_at_s + delay_s - now_s)

    def is_used_up(self, subject: str) -> bool:
        """Did this failure use up the last one that costs nothing?"""
        known = self._failures.get(subject)
        return known is not None and known.count == self._free_count

    def note(self, subject: str, now_s: float) -> None:
        known = self._failures.setdefault(subject, _Failures())
        if now_s - known.last_at_s >= forgotten_after_s:
            known.count = 0
        known.count, known.last_at_s = known.count + 1, now_s
        self._failures.move_to_end(subject)
        if len(self._failures) > subjects_max:
            self._failures.popitem(last=False)

    def take_back(self, subject: str) -> None:
        known = self._failures.get(subject)
        if known is not None:
            known.count -= 1

    def note_success(self, subject: str) -> None:
        """Of an attempt that note() counted."""
        if self._is_cleared:
            self._failures.pop(subject, None)
        else:
            self.take_back(subject)

    def forget_old(self, now_s: float) -> None:
        """From the old end: they stand in the order of their last failures."""
        while self._failures and now_s - next(iter(self._failures.values())).last_at_s >= forgotten_after_s:
            self._failures.popitem(last=False)

    def shown(self, refused_count: int) -> dict[str, Any]:
        return {
            "limiter": self.limiter,
            "counts": self._counts,
            "burst_count": self._free_count,
            "per_s": None,
            "buckets_count": len(self._failures),
            "refused_count": refused_count,
        }


Counters = Sequence[tuple[GrowingDelay, str]]


@contextmanager
def _counted(counters: Counters, now_s: float, failure: type[ChattyError]) -> Iterator[None]:
    """The block is one attempt: failure out of it is counted, its end is a success, all else counts for nothing."""
    for delay, subject in counters:
        delay.note(subject, now_s)
    try:
        yield
    except failure:
        raise
    except BaseException:
        for delay, subject in counters:
            delay.take_back(subject)
        raise
    for delay, subject in counters:
        delay.note_success(subject)


class LoginThrottle:
    def __init__(self, limits: Limits, *, free_count: int, delay_max_s: float, clock_s: Clock = time.monotonic) -> None:
        self._limits = limits
        self._clock_s = clock_s
        self._by_pair = GrowingDelay(
            "logins_account_address",
            "Failed log-ins for one account from one address.",
            free_count=free_count,
            delay_max_s=delay_max_s,
        )
        self._by_account = GrowingDelay(
            "logins_account",
            "Failed log-ins for one account from unfamiliar addresses.",
            free_count=free_count * account_free_factor,
            delay_max_s=min(account_delay_max_s, delay_max_s),
            is_cleared=False,
        )
        self._by_device = GrowingDelay(
            "logins_known_device",
            "Failed log-ins that show a known device's token.",
            free_count=free_count,
            delay_max_s=delay_max_s,
        )
        self._familiar: OrderedDict[str, float] = OrderedDict()
        limits.show(self._by_pair, self._by_account, self._by_device)

    def note_familiar(self, user: UserId, address: str) -> None:
        """Somebody who holds this account's tokens is at this address."""
        if not address:
            return
        pair = _pair(user, address)
        self._familiar[pair] = self._clock_s()
        self._familiar.move_to_end(pair)
        if len(self._familiar) > subjects_max:
            self._familiar.popitem(last=False)

    def forget_old(self) -> None:
        now_s = self._clock_s()
        for delay in (self._by_pair, self._by_account, self._by_device):
            delay.forget_old(now_s)
        while self._familiar and now_s - next(iter(self._familiar.values())) >= familiar_s:
            self._familiar.popitem(last=False)

    @contextmanager
    def attempt(self, user: UserId, *, what: str, address: str, known_device: DeviceId | None = None) -> Iterator[None]:
        """The block tries a password: LoginRefused out of it is a failure, its end a success; everything else counts for nothing.

        known_device: proven to be one of the user's; what = the operation, for the memory of refusals.
        Raises: RateLimited, before the block.
        """
        asker = Asker(what=what, address=address, user=user, device=known_device or "")
        counters = self._counters(user, address, known_device)
        now_s = self._clock_s()
        for delay, subject in counters:
            if wait_s := delay.wait_s(subject, now_s):
                raise self._limits.refused(delay.limiter, wait_s, asker)
        with ExitStack() as stack:
            if known_device is None:  # else a stranger at this address could make it wait
                stack.enter_context(self._address_taken(address, asker))
            stack.enter_context(_counted(counters, now_s, LoginRefused))
            yield
        self.note_familiar(user, address)

    @contextmanager
    def _address_taken(self, address: str, asker: Asker) -> Iterator[None]:
        """Only LoginRefused out of the block costs."""
        bucket = self._limits.take("logins_address", subject_of_address(address), asker)
        try:
            yield
        except LoginRefused:
            raise
        except BaseException:
            bucket.give_back()
            raise
        bucket.give_back()

    def _counters(self, user: UserId, address: str, known_device: DeviceId | None) -> list[tuple[GrowingDelay, str]]:
        if known_device is not None:
            return [(self._by_device, known_device)]
        pair = _pair(user, address)
        by_pair = (self._by_pair, pair)
        if self._clock_s() - self._familiar.get(pair, float("-inf")) < familiar_s:
            return [by_pair]
        return [by_pair, (self._by_account, user)]


class FactorThrottle:
    """Of second factors. Both numbers are settings."""

    def __init__(self, limits: Limits, *, free_count: int, delay_max_s: float, clock_s: Clock = time.monotonic) -> None:
        self._limits = limits
        self._clock_s = clock_s
        self._by_account = GrowingDelay(
            "second_factors_account",
            "Wrong second factors of one account, or of one known device of it.",
            free_count=free_count,
            delay_max_s=delay_max_s,
        )
        limits.show(self._by_account)

    def forget_old(self) -> None:
        self._by_account.forget_old(self._clock_s())

    @contextmanager
    def attempt(self, asker: Asker, kind: str, *, on_many: Callable[[], None]) -> Iterator[None]:
        """The block tries a second factor: SecondFactorRefused out of it is a failure, its end a success.

        asker: of a user whose password was right; its device: proven to be that user's. kind: in the protocol's words. on_many:
        called once, at the failure from which on there is a wait. Raises: RateLimited, before the block.
        """
        subject, now_s = asker.device or asker.user, self._clock_s()
        wait_s = self._by_account.wait_s(subject, now_s)
        if kind == "totp" and wait_s:
            raise self._limits.refused(self._by_account.limiter, wait_s, asker)
        with _counted([(self._by_account, subject)], now_s, SecondFactorRefused):
            is_last_free = self._by_account.is_used_up(subject)
            try:
                yield
            except SecondFactorRefused:
                if is_last_free:
                    on_many()
                raise


def _pair(user: UserId, address: str) -> str:
    return f"{user} {subject_of_address(address)}"
