"""The operator's commands, run in this process; and what they are told. The tests that use them use `logging_as_before`."""

import json
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click.testing
import trio
from psycopg.conninfo import conninfo_to_dict

from chatty.admin import main


async def chatty_admin(directory: Path, *words: str, **environment: str) -> click.testing.Result:
    """`chatty-admin` for the server of this data directory."""
    runner = click.testing.CliRunner(env={"NO_COLOR": "1", "COLUMNS": "160", **environment})
    command = ["--data-dir", str(directory), *words]
    return await trio.to_thread.run_sync(partial(runner.invoke, main, command))


def as_url(address: str) -> str:
    """The address of a test's database as the setting wants it."""
    return "postgresql:///?" + urlencode({key: str(value) for key, value in conninfo_to_dict(address).items()})


async def chatty_admin_json(directory: Path, *words: str, **environment: str) -> dict[str, Any]:
    """What it answers with --json, of a command that is done."""
    result = await chatty_admin(directory, *words, "--json", **environment)
    assert result.exit_code == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer
