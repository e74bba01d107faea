"""How often one may ask: named token buckets, and whom they refused.

A bucket holds up to `burst` tokens and gains `per_s` of them each second; what is asked takes what it costs, or is refused with
`rate_limited`: the limiter's name, and the time until there are tokens again. A cost above the burst is let through by a full
bucket, which then owes the rest.

Buckets are this process's own and in memory: a restart fills them, and beside n - 1 other processes somebody has n times as
many. One that is full again tells nothing and goes as others come. Bound: `subjects_max` buckets a limiter; beyond it the one
that was used least recently is forgotten, full or not: whoever wants to empty the memory that way must come as that many others
first, each of them limited.

Whom it refused it remembers for the operator (`chatty-admin limits why`): the newest refusals of the subjects refused last, in
memory only, because addresses are among them.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from itertools import islice
from typing import Any, Protocol
from weakref import WeakValueDictionary

from chatty.config import OFF, Rate, limiters
from chatty.errors import RateLimited
from chatty.services.caller import Caller
from chatty.wire import users as wire
from chatty.wire.users import Refusals

Clock = Callable[[], float]  # seconds, never going back

subjects_max = 50_000
refused_subjects_max = 5_000
refusals_a_subject_max = 16
notice_limiters = ("typing_device", "reads_device", "presence_device")
prefix_bits = 64  # of an IPv6 address: one customer has all addresses behind it


class Bucket:
    """One subject's tokens. Its clock is read once a call: a take is well under a microsecond."""

    __slots__ = ("__weakref__", "_at_s", "_clock_s", "_level", "burst", "per_s")

    def __init__(self, rate: Rate, clock_s: Clock) -> None:
        self.burst, self.per_s = rate
        self._clock_s = clock_s
        self._level = self.burst
        self._at_s = clock_s()

    def take(self, cost: float = 1.0) -> float:
        """0.0: taken. Else nothing was, and this is the wait in seconds until it can be."""
        now_s = self._clock_s()
        level = min(self.burst, self._level + (now_s - self._at_s) * self.per_s)
        self._at_s = now_s
        missing = min(cost, self.burst) - level
        if missing > 1e-6:
            self._level = level
            return missing / self.per_s
        self._level = level - cost
        return 0.0

    @property
    def is_full(self) -> bool:
        """As good as a new one."""
        return self._level + (self._clock_s() - self._at_s) * self.per_s >= self.burst

    def give_back(self, cost: float = 1.0) -> None:
        self._level = min(self.burst, self._level + cost)


@dataclass(frozen=True, kw_only=True)
class Asker:
    """Who asks for what, as far as it is known: only for the memory of refusals."""

    what: str
    address: str = ""
    user: str = ""
    device: str = ""

    def subjects(self) -> Iterator[str]:
        return filter(None, (subject_of_address(self.address) if self.address else "", self.user, self.device))


@dataclass(slots=True)
class Refusal:
    """How often one limiter refused one thing; times by the clock of Limits."""

    limiter: str
    what: str
    count: int
    last_at_s: float
    wait_s: float


class OtherLimiter(Protocol):
    """No token bucket. shown(): the same keys as those of a bucket."""

    limiter: str

    def shown(self, refused_count: int) -> dict[str, Any]: ...


class Limits:
    """The buckets of one process. rates: of every limiter that config.limiters() names. on_refusal: told the limiter's name."""

    def __init__(
        self,
        rates: Mapping[str, Rate],
        *,
        clock_s: Clock = time.monotonic,
        on_refusal: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._rates = dict(rates)
        self._clock_s = clock_s
        self._on_refusal = on_refusal
        self._buckets: dict[str, OrderedDict[str, Bucket]] = {name: OrderedDict() for name in rates}
        # Forgotten ones that a connection keeps: the same device that comes again must not find a new one.
        self._held: WeakValueDictionary[tuple[str, str], Bucket] = WeakValueDictionary()
        self._unlimited = Bucket(OFF, clock_s)
        self._refused: OrderedDict[str, OrderedDict[tuple[str, str], Refusal]] = OrderedDict()
        self._refused_count: Counter[str] = Counter()
        self._others: list[OtherLimiter] = []

    def bucket(self, limiter: str, subject: str) -> Bucket:
        """To keep, for what asks often."""
        rate = self._rates[limiter]
        if rate is OFF:
            return self._unlimited
        known = self._buckets[limiter]
        bucket = known.get(subject)
        if bucket is not None:
            known.move_to_end(subject)
            return bucket
        self._make_room(limiter, known)
        held = self._held.get((limiter, subject))
        bucket = known[subject] = Bucket(rate, self._clock_s) if held is None else held
        return bucket

    def _make_room(self, limiter: str, known: OrderedDict[str, Bucket]) -> None:
        """For a further one: the two of the longest ago go, if they are full again."""
        for subject in list(islice(known, 2)):
            if not known[subject].is_full:
                break
            self._held[limiter, subject] = known.pop(subject)
        if len(known) >= subjects_max:
            known.popitem(last=False)

    def take(self, limiter: str, subject: str, asker: Asker, *, cost: float = 1.0) -> Bucket:
        """The bucket that it was taken from, to give it back perhaps. Raises: RateLimited."""
        bucket = self.bucket(limiter, subject)
        wait_s = bucket.take(cost)
        if wait_s:
            raise self.refused(limiter, wait_s, asker)
        return bucket

    def refused(self, limiter: str, wait_s: float, asker: Asker) -> RateLimited:
        """The error to raise; it is remembered."""
        now_s = self._clock_s()
        for subject in asker.subjects():
            self._remember(subject, limiter, asker.what, wait_s, now_s)
        self._refused_count[limiter] += 1
        self._on_refusal(limiter)
        return RateLimited(limiter=limiter, retry_after_s=wait_s)

    def _remember(self, subject: str, limiter: str, what: str, wait_s: float, now_s: float) -> None:
        of_subject = self._refused.setdefault(subject, OrderedDict())
        self._refused.move_to_end(subject)
        if len(self._refused) > refused_subjects_max:
            self._refused.popitem(last=False)
        refusal = of_subject.setdefault((limiter, what), Refusal(limiter, what, 0, now_s, wait_s))
        of_subject.move_to_end((limiter, what))
        if len(of_subject) > refusals_a_subject_max:
            of_subject.popitem(last=False)
        refusal.count, refusal.last_at_s, refusal.wait_s = refusal.count + 1, now_s, wait_s

    # For the operator ------------------------------------------------------------------------------------------------

    def shown(self) -> dict[str, Any]:
        """Every limiter: what it counts, its rate (None: off), its buckets and refusals since the start."""
        others = [one.shown(self._refused_count[one.limiter]) for one in self._others]
        return {"limits": [self._shown(name) for name in self._rates] + others}

    def show(self, *others: OtherLimiter) -> None:
        """Limiters that count in their own way and refuse through refused()."""
        self._others += others

    def _shown(self, name: str) -> dict[str, Any]:
        rate = self._rates[name]
        return {
            "limiter": name,
            "counts": limiters()[name],
            "burst_count": None if rate is OFF else rate.burst,
            "per_s": None if rate is OFF else rate.per_s,
            "buckets_count": len(self._buckets[name]),
            "refused_count": self._refused_count[name],
        }

    def why(self, subject: str) -> Refusals:
        """The remembered refusals of a user id, a device id or an address, the newest first."""
        known = self._refused.get(subject) or self._refused.get(subject_of_address(subject)) or OrderedDict()
        now_s = self._clock_s()
        refusals = [
            wire.Refusal(
                limiter=one.limiter,
                what=one.what,
                count=one.count,
                last_age_s=round(now_s - one.last_at_s, 3),
                retry_after_s=round(one.wait_s, 3),
            )
            for one in reversed(known.values())
        ]
        return Refusals(subject=subject, refusals=refusals)


class DeviceLimits:
    """Of one connection of a device. Its buckets are the device's, so connecting anew fills none."""

    def __init__(self, limits: Limits, caller: Caller, *, address: str) -> None:
        self._limits = limits
        self._caller = caller
        self._address = address
        self._sends = limits.bucket("sends_device", caller.device)
        self._requests = limits.bucket("frames_device", caller.device)
        self._notices = {name: limits.bucket(name, caller.device) for name in notice_limiters}

    def count_send(self) -> None:
        """Raises: RateLimited."""
        if wait_s := self._sends.take():
            raise self._refused("sends_device", wait_s)

    def count_request(self) -> None:
        """Raises: RateLimited."""
        if wait_s := self._requests.take():
            raise self._refused("frames_device", wait_s)

    def count_notice(self, limiter: str) -> None:
        """limiter: one of notice_limiters. Raises: RateLimited."""
        if wait_s := self._notices[limiter].take():
            raise self._refused(limiter, wait_s)

    def _refused(self, limiter: str, wait_s: float) -> RateLimited:
        return self._limits.refused(limiter, wait_s, asker_of(self._caller, "websocket", address=self._address))


@lru_cache(maxsize=4_096)
def subject_of_address(address: str) -> str:
    """What stands for an address in a bucket: itself, or the /64 of an IPv6 address; what is none stays as it is."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    network = int(parsed) >> (128 - prefix_bits) << (128 - prefix_bits)
    return f"{IPv6Address(network)}/{prefix_bits}"


def unlimited() -> Limits:
    """Every limiter off."""
    return Limits(dict.fromkeys(limiters(), OFF))


def count_lookups(limits: Limits, caller: Caller, what: str, count: int = 1) -> None:
    """Of users by their names, whose existence the answer tells. what = the operation. Raises: RateLimited."""
    limits.take("lookups_account", caller.user, asker_of(caller, what), cost=count)


def asker_of(caller: Caller, what: str, *, address: str = "") -> Asker:
    return Asker(what=what, address=address, user=caller.user, device=caller.device)
