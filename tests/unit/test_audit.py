"""The audit log's formats and its verifier, on logs made here: whatever is done to a log is found, and called what it is."""

import base64
import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from chatty.crypto.audit import AuditKey, Code, Verdict, Verifier, check_head, findings_max
from chatty.crypto.successions import make_succession
from chatty.errors import BadSignature
from chatty.wire import audit as wire
from chatty.wire.audit import AuditHead, AuditRow, SealedRow, UnsealedRow
from chatty.wire.canonical import decode_base64, encode_base64
from chatty.wire.successions import KeySuccession, margin_ms

VECTOR: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "audit.json").read_text("utf-8"))
SERVER = "example.org"
KEY, OTHER_KEY = AuditKey(b"k" * 32), AuditKey(b"o" * 32)
Line = SealedRow | AuditHead | UnsealedRow | KeySuccession
Log = list[Line]


# The vector: what somebody writes after docs/protocol.md, with the standard library ----------------------------------


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def test_each_row_extends_the_chain() -> None:
    head = wire.empty_head(VECTOR["server"])
    assert head == sha256(b"chatty.audit.v1" + VECTOR["server"].encode()).digest() == bytes.fromhex(VECTOR["head_0"])
    for case in VECTOR["rows"]:
        written = canonical({"domain": "chatty.audit.v1", **case["row"]})
        assert written.decode() == case["canonical"]
        content = wire.content_digest(msgspec.convert(case["row"], AuditRow))
        assert content == sha256(written).digest() == bytes.fromhex(case["content"])
        leaf, before = wire.leaf(case["position"], content), head
        assert leaf == sha256(b"\0" + case["position"].to_bytes(8, "big") + content).digest()
        head = wire.next_head(head, leaf)
        assert head == sha256(b"\1" + before + leaf).digest()
        assert (leaf.hex(), head.hex()) == (case["leaf"], case["head"])


def test_an_address_is_hidden_by_its_salt() -> None:
    case = VECTOR["address"]
    hashed = wire.address_hash(bytes.fromhex(case["salt"]), case["address"])
    assert hashed == sha256(bytes.fromhex(case["salt"]) + case["address"].encode()).digest()
    assert hashed.hex() == case["hash"]


def test_a_head_is_signed_over_its_canonical_statement() -> None:
    case = VECTOR["head"]
    head = msgspec.convert(case["object"], AuditHead)
    check_head(head)
    seed = bytes.fromhex(case["seed"])
    assert AuditKey(seed).sign(case["message"].encode()) == head.signature
    signature = SigningKey(seed).sign(case["message"].encode()).signature
    assert base64.b64encode(signature).decode().rstrip("=") == head.signature
    statement = {name: value for name, value in case["object"].items() if name != "signature"}
    assert canonical({"domain": "chatty.audit_head.v1", **statement}).decode() == case["message"]


# A log and what can be done to it ------------------------------------------------------------------------------------


def make_row(number: int, *, address: str = "") -> AuditRow:
    return AuditRow(
        time_us=1_000_000 * number,
        actor=f"@user{number}:example.org",
        device="DEVICE01",
        family="f",
        action="device.revoked",
        object="DEVICE02",
        detail={},
        before={"state": "in_set"},
        after={"state": "revoked"},
        request_id=f"request-{number}",
        address_hash=encode_base64(wire.address_hash(b"salt", address)) if address else "",
    )


def sign_head(position: int, head: bytes, *, key: AuditKey = KEY, generation: int = 1, time: int = 1) -> AuditHead:
    parts: dict[str, Any] = {
        "server": SERVER,
        "generation": generation,
        "position": position,
        "time": time,
        "key": key.public,
    }
    signature = key.sign(wire.head_bytes(head=head, **parts))
    return AuditHead(head=encode_base64(head), signature=signature, **parts)


def make_log(*batches: int, key: AuditKey = KEY, salt: str = "", generation: int = 1) -> Log:
    """batches: how many rows each head covers; 0 is an empty head. salt: makes another log."""
    log: Log = []
    head, position = wire.empty_head(SERVER), 0
    for count in batches:
        for _ in range(count):
            position += 1
            row = msgspec.structs.replace(make_row(position, address="192.0.2.1"), request_id=f"{salt}{position}")
            leaf = wire.leaf(position, wire.content_digest(row))
            head = wire.next_head(head, leaf)
            sealed = SealedRow(
                position=position,
                audit_id=100 + position,
                leaf=encode_base64(leaf),
                row=row,
                address="192.0.2.1",
                salt=encode_base64(b"salt"),
            )
            log.append(sealed)
        log.append(sign_head(position, head, key=key, generation=generation))
    return log


def verify(log: Sequence[Line], *, keys: Sequence[str] = (KEY.public,), carried: Sequence[AuditHead] = ()) -> Verdict:
    verifier = Verifier(server=SERVER, keys=keys, carried=carried)
    for line in log:
        verifier.take(line)
    return verifier.finish()


def findings(log: Sequence[Line], **trust: Any) -> list[tuple[Code, int | None, int | None]]:
    return [(one.code, one.position, one.upto) for one in verify(log, **trust).findings]


def seal(log: Log, position: int) -> SealedRow:
    [found] = [line for line in log if isinstance(line, SealedRow) and line.position == position]
    return found


def row_of(sealed: SealedRow) -> AuditRow:
    assert sealed.row is not None
    return sealed.row


def heads(log: Log) -> list[AuditHead]:
    return [line for line in log if isinstance(line, AuditHead)]


def put(log: Log, position: int, **changes: Any) -> None:
    """Alter the place at this position."""
    before = seal(log, position)
    log[log.index(before)] = msgspec.structs.replace(before, **changes)


def swap_rows(log: Log, one: int, other: int) -> None:
    """Each row stands at the other's place; the hashes kept there stay."""
    first, second = seal(log, one), seal(log, other)
    put(log, one, audit_id=second.audit_id, row=second.row)
    put(log, other, audit_id=first.audit_id, row=first.row)


def test_a_log_as_it_was_signed_is_intact() -> None:
    log = make_log(0, 3, 1, 0, 250, 2)
    verdict = verify(log, carried=heads(log))
    assert verdict.is_intact
    assert (verdict.sealed_count, verdict.heads_count, verdict.newest) == (256, 6, log[-1])


def test_an_empty_log_is_intact() -> None:
    assert verify([]).is_intact
    assert verify(make_log(0)).is_intact


FIELDS: dict[str, Any] = {
    "time_us": 1,
    "actor": "@eve:example.org",
    "device": "",
    "family": "g",
    "action": "device.renamed",
    "object": "DEVICE03",
    "detail": {"a": 1},
    "before": {"state": "without_keys"},
    "after": [],
    "request_id": "",
    "address_hash": "",
}


@pytest.mark.parametrize("field", AuditRow.__struct_fields__)
def test_a_row_changed_in_any_field_is_found(field: str) -> None:
    log = make_log(3, 3)
    put(log, 2, row=msgspec.structs.replace(row_of(seal(log, 2)), **{field: FIELDS[field]}))
    assert findings(log) == [("row_changed", 2, None)]


@pytest.mark.parametrize("value", [1.5, {"a": 2**60}, {"a": "\ud800"}])
def test_a_row_with_a_value_that_was_never_written_is_found(value: Any) -> None:
    log = make_log(3)
    put(log, 2, row=msgspec.structs.replace(row_of(seal(log, 2)), detail=value))
    assert findings(log) == [("row_changed", 2, None)]


@pytest.mark.parametrize("change", [{"address": "192.0.2.2"}, {"salt": "AAAA"}, {"salt": None}, {"salt": "?"}])
def test_an_address_may_be_erased_and_not_replaced(change: dict[str, Any]) -> None:
    log = make_log(3)
    put(log, 2, address=None, salt=None)
    assert findings(log) == []
    put(log, 1, **change)
    assert findings(log) == [("row_changed", 1, None)]


def test_a_removed_row_is_found() -> None:
    log = make_log(3, 3)
    put(log, 5, row=None)
    assert findings(log) == [("row_removed", 5, 5)]


def test_rows_removed_with_their_seals_are_found_at_any_place() -> None:
    log = make_log(3, 3)
    for position in (1, 3, 4, 6):
        log.remove(seal(log, position))
    assert findings(log) == [("row_removed", 1, 1), ("row_removed", 3, 3), ("row_removed", 4, 4), ("row_removed", 6, 6)]


def test_what_stands_behind_a_removed_row_is_still_verified() -> None:
    log = make_log(3, 3, 3)
    log.remove(seal(log, 2))
    put(log, 8, row=msgspec.structs.replace(row_of(seal(log, 8)), actor=""))
    assert findings(log) == [("row_removed", 2, 2), ("row_changed", 8, None)]


@pytest.mark.parametrize(("one", "other"), [(2, 3), (1, 6), (4, 9)])
def test_a_reordered_pair_is_found_and_told_from_changed_rows(one: int, other: int) -> None:
    log = make_log(3, 3, 3)
    swap_rows(log, one, other)
    assert findings(log) == [("rows_reordered", one, other), ("rows_reordered", other, one)]


def test_a_pair_reordered_with_its_hashes_is_found() -> None:
    log = make_log(3, 3, 3)
    first, second = seal(log, 2), seal(log, 7)
    swap_rows(log, 2, 7)
    put(log, 2, leaf=second.leaf)
    put(log, 7, leaf=first.leaf)
    assert findings(log) == [("rows_reordered", 2, 7), ("rows_reordered", 7, 2)]


def test_a_row_changed_with_its_hash_is_found() -> None:
    log = make_log(3, 3)
    row = msgspec.structs.replace(row_of(seal(log, 5)), actor="")
    put(log, 5, row=row, leaf=encode_base64(wire.leaf(5, wire.content_digest(row))), address=None)
    assert findings(log) == [("seal_altered", 4, 6)]


def test_an_altered_hash_is_told_from_an_altered_row() -> None:
    log = make_log(3, 3)
    put(log, 5, leaf=encode_base64(b"x" * 32))
    assert findings(log) == [("seal_altered", 5, 5)]


def test_an_added_row_is_found() -> None:
    log = make_log(3, 3)
    more = make_log(3, 4)
    log.append(seal(more, 7))
    assert findings(log) == [("seal_unsigned", 7, 7)]


def test_a_truncated_tail_shows_only_against_a_head_that_was_carried_away() -> None:
    log = make_log(3, 3, 2)
    carried, cut = heads(log)[-1:], log[:4]
    assert findings(cut) == []
    assert findings(cut, carried=carried) == [("tail_truncated", 8, 3)]
    assert findings([], carried=carried) == [("tail_truncated", 8, 0)]


def test_a_log_written_anew_contradicts_a_head_that_was_carried_away() -> None:
    carried = heads(make_log(3, 3, 2))
    rewritten = make_log(8, salt="x")
    assert findings(rewritten) == []
    assert ("history_rewritten", 8, None) in findings(rewritten, carried=carried)


def test_a_carried_head_is_compared_where_the_log_keeps_no_head_any_more() -> None:
    log, carried = make_log(3, 3), heads(make_log(3))
    assert findings([line for line in log if line != heads(log)[0]], carried=carried) == []
    rewritten = make_log(6, salt="x")
    assert findings(rewritten, carried=carried) == [("history_rewritten", 3, None)]


def test_two_heads_that_differ_at_one_position_convict() -> None:
    log = make_log(3)
    log.append(sign_head(3, b"h" * 32))
    assert findings(log) == [("history_rewritten", 3, None)]


def test_after_a_restore_a_carried_head_says_that_and_not_treason() -> None:
    carried = heads(make_log(3, 3))
    restored = [*make_log(3), *make_log(3, 1, salt="", generation=2)[-2:]]
    assert findings(restored, carried=carried) == [("log_restored", 6, 4)]


def test_a_head_that_goes_back_is_found() -> None:
    log = make_log(3, generation=2)
    log.append(sign_head(3, base64.b64decode(heads(log)[0].head + "="), generation=1))
    assert findings(log) == [("head_misplaced", 3, None)]


@pytest.mark.parametrize(
    "forge",
    [
        lambda head: msgspec.structs.replace(head, time=2),
        lambda head: msgspec.structs.replace(head, signature="A" * 86),
        lambda head: msgspec.structs.replace(head, server="example.com"),
        lambda head: msgspec.structs.replace(head, key="?"),
        lambda head: sign_head(head.position, base64.b64decode(head.head + "="), key=OTHER_KEY),
    ],
)
def test_a_forged_head_covers_nothing(forge: Callable[[AuditHead], AuditHead]) -> None:
    log = make_log(3, 3)
    log[-1] = forge(heads(log)[-1])
    assert findings(log) == [("head_forged", 6, None), ("seal_unsigned", 4, 6)]


def test_a_log_signed_with_another_key_is_none() -> None:
    log = make_log(3, key=OTHER_KEY)
    assert findings(log) == [("head_forged", 3, None), ("seal_unsigned", 1, 3)]
    assert findings(log, keys=(), carried=heads(make_log(3)))[0] == ("head_forged", 3, None)
    assert findings(log, keys=()) == []  # nobody vouches for any key


def test_unsealed_rows_are_counted_and_those_that_claim_a_seal_are_found() -> None:
    log: Log = [*make_log(2), UnsealedRow(audit_id=8, row=make_row(8)), UnsealedRow(audit_id=9, row=make_row(9))]
    verdict = verify(log)
    assert verdict.is_intact
    assert [one.audit_id for one in verdict.unsealed] == [8, 9]
    log.append(UnsealedRow(audit_id=10, row=make_row(10), claims_seal=True))
    [finding] = verify(log).findings
    assert (finding.code, finding.audit_id) == ("row_unchained", 10)


def test_findings_are_bounded_and_all_are_counted() -> None:
    log = make_log(findings_max + 500)
    for position in range(1, findings_max + 501):
        put(log, position, row=None)
    verdict = verify(log)
    assert (len(verdict.findings), verdict.findings_count) == (findings_max, findings_max + 500)


def test_a_head_with_another_signature_is_refused_by_itself() -> None:
    with pytest.raises(BadSignature):
        check_head(msgspec.structs.replace(heads(make_log(1))[0], position=2))


@given(st.data())
def test_whatever_is_done_to_a_log_is_found(data: st.DataObject) -> None:
    """Lines dropped, repeated, swapped or given another's parts, as long as the heads carried away are believed."""
    batches = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    log = make_log(*batches)
    carried = heads(log)[-1:]
    seals = [line for line in log if isinstance(line, SealedRow)]
    if not seals:
        return
    victim, other = data.draw(st.sampled_from(seals)), data.draw(st.sampled_from(seals))
    damaged = list(log)
    match data.draw(st.sampled_from(["drop", "drop row", "take row", "take leaf", "repeat", "cut"])):
        case "drop":
            damaged.remove(victim)
        case "drop row":
            put(damaged, victim.position, row=None)
        case "take row":
            put(damaged, victim.position, row=other.row, audit_id=other.audit_id)
        case "take leaf":
            put(damaged, victim.position, leaf=other.leaf)
        case "repeat":
            damaged.insert(damaged.index(victim), victim)
        case "cut":
            del damaged[damaged.index(victim) :]
    assert verify(damaged, carried=carried).is_intact == (damaged == log)


# Successions ----------------------------------------------------------------------------------------------------------


def succession(*, time: int = 0) -> KeySuccession:
    return make_succession(server=SERVER, purpose="audit", old_seed=b"k" * 32, new_seed=b"o" * 32, time=time)


def handed_over() -> Log:
    """Three rows under one key, three under the other."""
    return [*make_log(3, 3)[:4], *make_log(3, 3, key=OTHER_KEY)[4:]]


def test_a_named_successor_goes_on_with_the_log() -> None:
    log = handed_over()
    assert ("head_forged", 6, None) in findings(log)
    for keys in ((KEY.public,), ()):
        assert findings([succession(), *log], keys=keys) == []
    assert findings([succession(), *log], keys=(), carried=heads(log)[:1]) == []
    assert ("head_forged", 3, None) in findings([succession(), *log], keys=(OTHER_KEY.public,))


@pytest.mark.parametrize("change", ["signature", "new_signature", "time", "purpose", "server", "new"])
def test_a_successor_that_one_of_both_keys_did_not_sign_for_is_none(change: str) -> None:
    shown = succession()
    swapped = {"signature": shown.new_signature, "new_signature": shown.signature, "new": AuditKey(b"x" * 32).public}
    changes = {**swapped, "time": 1, "purpose": "checkpoint", "server": "example.com"}
    altered = msgspec.structs.replace(shown, **{change: changes[change]})
    assert ("head_forged", 6, None) in findings([altered, *handed_over()])


def test_what_a_key_signs_long_after_its_turn_is_forged() -> None:
    log = make_log(3)
    head = decode_base64(heads(log)[0].head)
    for time, expected in ((margin_ms, False), (margin_ms + 1, True)):
        log[-1] = sign_head(3, head, time=time)
        assert (("head_forged", 3, None) in findings([succession(), *log])) is expected
