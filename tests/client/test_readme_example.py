"""The example in the documentation runs as it stands; only the address is put in."""

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import trio

from chatty.client import client as front_door
from tests.client.small_server import CHEAP_LIMITS, small_server

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [page for page in (ROOT / "docs" / "sdk.md", ROOT / "README.md") if "chatty.client" in page.read_text("utf-8")]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def example(page: Path) -> str:
    """The one Python block that is a whole program."""
    [program] = [block for block in BLOCK.findall(page.read_text("utf-8")) if "trio.run(" in block]
    return str(program)


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_the_example_is_short(page: Path) -> None:
    assert len([line for line in example(page).splitlines() if line.strip()]) <= 20


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
async def test_the_example_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = example(page)
    assert "http://127.0.0.1:8000" in program
    printed = StringIO()
    async with small_server() as server:
        honest_open = front_door.open_client

        def open_here(origin: str, path: str, *, store_key: bytes) -> object:
            return honest_open(
                server.origin,
                path,
                store_key=store_key,
                transport=server.transport,
                derivation_limits=CHEAP_LIMITS,
            )

        monkeypatch.setattr("chatty.client.open_client", open_here)
        monkeypatch.setattr(trio, "run", lambda main: None)
        names: dict[str, object] = {}
        exec(compile(program, page.name, "exec"), names)
        with redirect_stdout(printed), trio.fail_after(20):
            await names["main"]()  # type: ignore[operator]
    assert "Hello Ben, only you can read this." in printed.getvalue()
