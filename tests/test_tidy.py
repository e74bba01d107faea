"""Style as a test: what a stranger relies on when reading. docs/architecture.md says why; the limits stand here."""

import ast
import re
import statistics
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = sorted((ROOT / "chatty").rglob("*.py"))
ALL_CODE = [*PRODUCT, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "bench").rglob("*.py"))]

VAGUE_NAMES = frozenset({"util", "utils", "helper", "helpers", "manager", "base", "common", "misc"})

# A feature has the same file name in every layer: `ls chatty/*/rooms.py` shows all there is about rooms.
FEATURES = frozenset(
    {
        "accounts",
        "audit",
        "backups",
        "blocks",
        "checkpoints",
        "cleanup",
        "console",
        "crashes",
        "deletions",
        "devices",
        "doorbells",
        "dpop",
        "expiry",
        "exports",
        "generations",
        "health",
        "integrity",
        "invites",
        "jobs",
        "journal",
        "key_rotation",
        "keys",
        "limits",
        "mailbox",
        "master_key",
        "messages",
        "passwords",
        "preferences",
        "presence",
        "quotas",
        "receipts",
        "registration",
        "requests",
        "resume",
        "room_directory",
        "room_links",
        "rooms",
        "second_factors",
        "server",
        "sessions",
        "sizes",
        "statistics",
        "streams",
        "timeline",
        "tokens",
        "typing_notices",
        "undecryptables",
        "units",
        "users",
    }
)
# What belongs to one layer only: its machinery, no feature.
LAYER_FILES = {
    "services": {
        "caller",
        "coalescing",
        "crash_points",
        "erasure",
        "factor_check",
        "issuer",
        "key_revocation",
        "login_throttle",
        "names",
        "owed_devices",
        "permissions",
        "rewrapping",
        "server_keys",
    },
    "store": {
        "audit_heads",
        "binary",
        "connection",
        "diagnosis",
        "embedded",
        "leases",
        "locks",
        "migrations",
        "nursery",
        "owed_devices",
        "pipeline",
        "pool",
        "schema",
    },
    "web": {
        "addresses",
        "admission",
        "application",
        "asyncapi",
        "direct",
        "gateway",
        "links",
        "listener",
        "openapi",
        "pages",
        "problems",
        "reading",
        "routes",
        "socket",
        "tcp",
    },
    "actors": {
        "bus",
        "console",
        "delivery",
        "directory",
        "faults",
        "janitor",
        "job_board",
        "notice_requests",
        "notices",
        "outbox",
        "runtime",
        "session_parts",
        "watch",
    },
    "admin": {
        "actors",
        "acts",
        "completion",
        "config",
        "db",
        "db_size",
        "doctor",
        "findings",
        "log",
        "login",
        "offline",
        "options",
        "privacy",
        "remote",
        "render",
        "socket",
        "status",
        "storage",
        "top",
        "top_keys",
        "top_screen",
    },
    "demo": {
        "device",
        "needles",
        "orders",
        "report",
        "run",
        "search",
        "stage",
        "storage",
        "story",
        "transcript",
    },
    "client": {
        "backoff",
        "client",
        "connection",
        "device_lists",
        "directory",
        "engine",
        "errors",
        "http",
        "intake",
        "megolm",
        "numbers",
        "notice_calls",
        "notices",
        "nursery",
        "olm",
        "outbox",
        "own_factors",
        "pending",
        "reasons",
        "room",
        "room_book",
        "sealing",
        "secret_keys",
        "server_keys",
        "sharing",
        "store",
        "taken_changes",
        "details",
        "relations",
        "tombstones",
        "update_queue",
        "updates",
        "views",
        "weak_passwords",
    },
}

MACHINE_PATH = re.compile(r"(?<![\w.~)])/(?:work|root|tmp|home/\w+|Users/\w+)(?=[/\s\"'`]|$)")
REGISTRY_HOST = re.compile(r"pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|crates\.io/api", re.IGNORECASE)


class Function(NamedTuple):
    where: str
    name: str
    line_count: int


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def functions(path: Path) -> list[Function]:
    """Functions of a file with their length: from `def` to the end, without the docstring."""
    return [
        Function(
            f"{path.relative_to(ROOT)}:{node.lineno}",
            node.name,
            (node.end_lineno or 0) - node.lineno + 1 - docstring_line_count(node),
        )
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def docstring_line_count(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    if ast.get_docstring(node) is None:
        return 0
    return (node.body[0].end_lineno or 0) - node.body[0].lineno + 1


def ninetieth(values: list[int]) -> float:
    return statistics.quantiles(values, n=10, method="inclusive")[-1]


def tracked_files() -> list[Path]:
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def found_in_tracked_text(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in pattern.finditer(text)]
    return found


def is_all_catching(kind: ast.expr | None) -> bool:
    match kind:
        case None:
            return True
        case ast.Name(id="Exception" | "BaseException"):
            return True
        case ast.Tuple(elts=elements):
            return any(is_all_catching(element) for element in elements)
        case _:
            return False


def all_catching_lines(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        match node:
            case ast.ExceptHandler(type=ast.Name(id="BaseException"), body=[*_, ast.Raise(exc=None)]):
                pass  # tidies up, a cancellation too, and passes on
            case ast.ExceptHandler(type=kind) if is_all_catching(kind):
                yield node.lineno
            case ast.Call(func=ast.Name(id="suppress") | ast.Attribute(attr="suppress"), args=arguments):
                if any(is_all_catching(argument) for argument in arguments):
                    yield node.lineno


def test_no_function_is_longer_than_70_lines() -> None:
    assert [found for path in ALL_CODE for found in functions(path) if found.line_count > 70] == []


def test_functions_are_short_as_a_rule() -> None:
    lengths = [found.line_count for path in PRODUCT for found in functions(path)]
    assert statistics.median(lengths) <= 7
    assert ninetieth(lengths) <= 30


def test_modules_are_short_as_a_rule() -> None:
    assert ninetieth([len(path.read_text(encoding="utf-8").splitlines()) for path in PRODUCT]) <= 400


def test_no_name_is_vague() -> None:
    names = [(path, path.stem) for path in ALL_CODE] + [(path.parent, path.parent.name) for path in ALL_CODE]
    names += [(path, found.name) for path in ALL_CODE for found in functions(path)]
    assert [f"{path.relative_to(ROOT)}: {name}" for path, name in names if name.strip("_") in VAGUE_NAMES] == []


def test_only_the_supervisor_catches_everything() -> None:
    runtime = ROOT / "chatty" / "actors" / "runtime"
    elsewhere = [path for path in PRODUCT if not path.is_relative_to(runtime)]
    found = [f"{path.relative_to(ROOT)}:{line}" for path in elsewhere for line in all_catching_lines(parse(path))]
    assert found == []


def test_nothing_is_rebound_from_inside_a_function() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in PRODUCT
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Global)
    ]
    assert found == []


@pytest.mark.parametrize("layer", sorted(LAYER_FILES))
def test_a_file_is_named_after_its_feature(layer: str) -> None:
    entries = [entry for entry in (ROOT / "chatty" / layer).iterdir() if not entry.name.startswith("_")]
    names = {entry.stem for entry in entries if entry.is_dir() or entry.suffix == ".py"}
    assert names - FEATURES - LAYER_FILES[layer] == set()


def test_no_path_of_one_machine_is_in_the_repository() -> None:
    assert found_in_tracked_text(MACHINE_PATH) == []


def test_no_package_registry_is_in_the_repository() -> None:
    assert found_in_tracked_text(REGISTRY_HOST) == []


def test_every_lock_entry_has_a_hash_and_no_address() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\S)", lock.strip())
    assert [entry for entry in entries if "--hash=sha256:" not in entry or "://" in entry] == []


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("see /" + "work/main", True),
        ('"/' + 'tmp"', True),
        ("/" + "home/ann/x", True),
        ("chat/" + "work", False),
        ("/tmpfs", False),
        ("/v1/rooms", False),
    ],
)
def test_the_search_for_machine_paths_finds_what_it_should(text: str, is_found: bool) -> None:
    assert bool(MACHINE_PATH.search(text)) is is_found


@pytest.mark.parametrize(
    ("code", "is_found"),
    [
        ("try: pass\nexcept: pass", True),
        ("try: pass\nexcept (OSError, Exception): pass", True),
        ("try: pass\nexcept* BaseException: pass", True),
        ("with contextlib.suppress(Exception): pass", True),
        ("try: pass\nexcept Exception: raise", True),
        ("try: pass\nexcept BaseException:\n  close()\n  raise", False),
        ("try: pass\nexcept OSError: pass", False),
    ],
)
def test_the_search_for_broad_handlers_finds_what_it_should(code: str, is_found: bool) -> None:
    assert bool(list(all_catching_lines(ast.parse(code)))) is is_found
