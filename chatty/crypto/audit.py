"""The audit log's verifier: takes the log line by line, needs no server and no database, and says what is wrong with it.

What it believes are signed heads. Between two of them the rows themselves, or else the leaves kept beside them, must lead from
one head to the next: so it can tell a row that was altered from a leaf that was, and goes on after either. Rows that fit nowhere
are compared with each other in the end: one that was sealed at another's place was moved.

A tail that was cut off, and a log rewritten by who has the key, show only against a head that was carried away in time.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from chatty.crypto import signatures
from chatty.crypto.successions import Successions
from chatty.errors import BadRequest, BadSignature
from chatty.wire import audit as wire
from chatty.wire.audit import AuditHead, AuditRow, SealedRow, UnsealedRow
from chatty.wire.canonical import decode_base64, encode_base64
from chatty.wire.successions import AUDIT, KeySuccession

findings_max = 1_000
unsealed_shown_max = 100
_moved_max = 500  # rows that fit nowhere are compared each with each

Code = Literal[
    "row_changed",  # the row at `position` is not the one that was sealed there
    "row_removed",  # what was sealed at `position` … `upto` is gone
    "rows_reordered",  # the row at `position` was sealed at `upto`
    "row_unchained",  # row `audit_id` says that it is sealed and has no place in the chain
    "seal_altered",  # the leaves kept for `position` … `upto` are not those that were signed
    "seal_unsigned",  # no signed head covers `position` … `upto`
    "head_forged",  # a head whose signature, key or server is wrong
    "head_misplaced",  # a head that goes back
    "history_rewritten",  # a carried-away head says otherwise about what stands up to `position`
    "tail_truncated",  # a carried-away head reaches `position`; the log ends at `upto`
    "log_restored",  # as the two above, but the server was restored from a backup since that head was signed
]


@dataclass(frozen=True, kw_only=True)
class Finding:
    code: Code
    position: int | None = None
    upto: int | None = None
    audit_id: int | None = None


@dataclass(kw_only=True)
class Verdict:
    """unsealed: the first of the rows that wait for the sealer; they are no finding. newest: the last good head."""

    sealed_count: int = 0
    unsealed_count: int = 0
    heads_count: int = 0
    findings_count: int = 0
    newest: AuditHead | None = None
    unsealed: list[UnsealedRow] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_intact(self) -> bool:
        return self.findings_count == 0

    def add(self, finding: Finding) -> None:
        self.findings_count += 1
        if len(self.findings) < findings_max:
            self.findings.append(finding)


@dataclass(frozen=True, kw_only=True)
class _Seal:
    """content: the digest of the row that stands there; None: no row; empty: a row that cannot be what was sealed."""

    position: int
    audit_id: int
    leaf: bytes
    content: bytes | None

    @property
    def fits(self) -> bool:
        return bool(self.content) and wire.leaf(self.position, self.content or b"") == self.leaf


class AuditKey:
    """The Ed25519 key that signs heads, and nothing else. public: unpadded base64. Never printed."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self.public = signatures.public_key(seed)

    def sign(self, message: bytes) -> str:
        """Unpadded base64; the message must begin with a domain of ours."""
        return signatures.sign(self._seed, message)


def check_head(head: AuditHead) -> None:
    """Against the key that it names. Raises: BadSignature."""
    statement = wire.head_bytes(
        server=head.server,
        generation=head.generation,
        position=head.position,
        head=decode_base64(head.head, length=32),
        time=head.time,
        key=head.key,
    )
    signatures.verify(head.key, statement, head.signature)


class Verifier:
    """Sealed rows by position, each head behind the rows that it covers, unsealed rows anywhere; then finish()."""

    def __init__(self, *, server: str, keys: Collection[str] = (), carried: Sequence[AuditHead] = ()) -> None:
        """keys: the audit keys that are believed, base64; without any, those of the carried heads; without these, the first
        that the log names; and always those that these name as their successors. carried: heads that were exported earlier.
        """
        self._verdict = Verdict()
        self._server = server
        self._keys = set(keys) or {head.key for head in carried}
        self._shown: list[KeySuccession] = []
        self._successions = Successions([], server=server, purpose=AUDIT)
        self._position, self._head, self._generation = 0, wire.empty_head(server), 0
        self._batch: list[_Seal] = []
        self._misfits: list[_Seal] = []
        self._carried: dict[int, list[AuditHead]] = {}
        for head in carried:
            if self._is_genuine(head):
                self._carried.setdefault(head.position, []).append(head)
        self._compare(0, self._head)

    def take(self, line: SealedRow | AuditHead | UnsealedRow | KeySuccession) -> None:
        """Successions before the heads of the new keys."""
        match line:
            case KeySuccession():
                self._shown.append(line)
                self._successions = Successions(self._shown, server=self._server, purpose=AUDIT)
            case SealedRow():
                self._take_seal(line)
            case AuditHead():
                self._take_head(line)
            case UnsealedRow():
                self._take_unsealed(line)

    def finish(self) -> Verdict:
        """Call it once."""
        if self._batch:
            first, last = self._batch[0].position, self._batch[-1].position
            self._verdict.add(Finding(code="seal_unsigned", position=first, upto=last))
            self._misfits += [seal for seal in self._batch if not seal.fits]
        for finding in _explain(self._misfits):
            self._verdict.add(finding)
        self._find_truncation()
        return self._verdict

    def _take_seal(self, line: SealedRow) -> None:
        self._verdict.sealed_count += 1
        leaf = decode_base64(line.leaf)
        content = None if line.row is None else _content(line, line.row)
        self._batch.append(_Seal(position=line.position, audit_id=line.audit_id, leaf=leaf, content=content))

    def _take_unsealed(self, line: UnsealedRow) -> None:
        if line.claims_seal:
            self._verdict.add(Finding(code="row_unchained", audit_id=line.audit_id))
            return
        self._verdict.unsealed_count += 1
        if len(self._verdict.unsealed) < unsealed_shown_max:
            self._verdict.unsealed.append(line)

    def _take_head(self, head: AuditHead) -> None:
        self._verdict.heads_count += 1
        self._keys = self._keys or {head.key}
        if not self._is_genuine(head):
            return
        if head.position < self._position or head.generation < self._generation:
            self._verdict.add(Finding(code="head_misplaced", position=head.position))
            return
        self._close_batch(head)
        self._position, self._head, self._generation = head.position, decode_base64(head.head), head.generation
        self._compare(head.position, self._head)
        self._verdict.newest = head

    def _is_genuine(self, head: AuditHead) -> bool:
        try:
            check_head(head)
        except (BadSignature, BadRequest):
            is_signed = False
        else:
            is_signed = head.server == self._server and self._is_believed(head)
        if not is_signed:
            self._verdict.add(Finding(code="head_forged", position=head.position))
        return is_signed

    def _is_believed(self, head: AuditHead) -> bool:
        """Its key, or one before that, is believed; and its turn was not over."""
        end_ms = self._successions.ends_ms(head.key)
        return head.key in self._successions.heirs(self._keys) and (end_ms is None or head.time <= end_ms)

    def _close_batch(self, head: AuditHead) -> None:
        """What stands between the head before and this one must lead from there to here: the rows, or else the leaves."""
        seals, self._batch = self._batch, []
        if not seals and head.position == self._position:
            if head.head != encode_base64(self._head):
                self._verdict.add(Finding(code="history_rewritten", position=head.position))
            return
        gaps = list(_gaps([seal.position for seal in seals], after=self._position, upto=head.position))
        misfits = [seal for seal in seals if not seal.fits]
        by_leaves = self._walk([(seal.position, seal.leaf) for seal in seals])
        by_rows = self._walk([(seal.position, _row_leaf(seal)) for seal in seals])
        wanted = (head.position, decode_base64(head.head))
        for first, last in gaps:
            self._verdict.add(Finding(code="row_removed", position=first, upto=last))
        if by_rows[-1:] == [wanted]:  # each row stands where it was sealed
            for seal in misfits:
                self._verdict.add(Finding(code="seal_altered", position=seal.position, upto=seal.position))
        else:
            self._misfits += misfits
            if by_leaves[-1:] != [wanted] and not misfits and not gaps:
                self._verdict.add(Finding(code="seal_altered", position=self._position + 1, upto=head.position))
        genuine = by_rows if by_rows[-1:] == [wanted] else by_leaves if by_leaves[-1:] == [wanted] else []
        for position, passed in genuine:
            self._compare(position, passed)

    def _walk(self, leaves: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """The head behind each leaf."""
        head, passed = self._head, []
        for position, leaf in leaves:
            head = wire.next_head(head, leaf)
            passed.append((position, head))
        return passed

    def _compare(self, position: int, head: bytes) -> None:
        """With what was carried away of this position."""
        for carried in self._carried.pop(position, ()):
            if carried.head != encode_base64(head):
                self._verdict.add(Finding(code=self._code("history_rewritten", carried), position=position))

    def _find_truncation(self) -> None:
        beyond = [head for heads in self._carried.values() for head in heads if head.position > self._position]
        if beyond:
            last = max(beyond, key=lambda head: head.position)
            code = self._code("tail_truncated", last)
            self._verdict.add(Finding(code=code, position=last.position, upto=self._position))

    def _code(self, code: Code, carried: AuditHead) -> Code:
        return "log_restored" if carried.generation < self._generation else code


def _content(line: SealedRow, row: AuditRow) -> bytes:
    """The row's digest; empty if it cannot be what was sealed."""
    try:
        if line.address is not None:
            hashed = wire.address_hash(decode_base64(line.salt or ""), line.address)
            if encode_base64(hashed) != row.address_hash:
                return b""
        return wire.content_digest(row)
    except BadRequest:
        return b""


def _row_leaf(seal: _Seal) -> bytes:
    return wire.leaf(seal.position, seal.content or b"")


def _gaps(positions: Sequence[int], *, after: int, upto: int) -> Iterator[tuple[int, int]]:
    """First and last of each stretch of positions that are missing."""
    expected = after + 1
    for position in [*positions, upto + 1]:
        if position > expected:
            yield expected, position - 1
        expected = max(expected, position + 1)


def _explain(misfits: Sequence[_Seal]) -> Iterator[Finding]:
    for seal in misfits:
        place = {"position": seal.position, "audit_id": seal.audit_id}
        if seal.content is None:
            yield Finding(code="row_removed", upto=seal.position, **place)
        elif (sealed_at := _sealed_at(seal, misfits[:_moved_max])) is not None:
            yield Finding(code="rows_reordered", upto=sealed_at, **place)
        else:
            yield Finding(code="row_changed", **place)


def _sealed_at(moved: _Seal, misfits: Sequence[_Seal]) -> int | None:
    """Another place whose leaf, or whose leaf that now stands here, is this row's."""
    for other in misfits:
        if other.position != moved.position and wire.leaf(other.position, moved.content or b"") in (
            other.leaf,
            moved.leaf,
        ):
            return other.position
    return None
