"""`chatty-admin privacy`: what this server stores, logs and counts, what for and how long, as privacy.toml declares it.

docs/privacy.md is this command's --markdown. A test compares the declaration with the live schema, the logs and the metrics, so
that nothing is kept that is not written here.
"""

import importlib.resources
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
import msgspec
from msgspec import Struct

from chatty.admin import render
from chatty.admin.options import json_option


class Column(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """retention, deletion: where they differ from the table's."""

    purpose: str
    retention: str = ""
    deletion: str = ""


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """about: whom its rows are about. deletion: what the deletion of an account leaves of them."""

    what: str
    retention: str
    columns: dict[str, str | Column]
    about: str = "users"
    deletion: str = "erased"


class LogFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    retention: str
    fields: dict[str, str]


class MetricLabels(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    retention: str
    labels: dict[str, str]


class Memory(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    retention: str
    kept: dict[str, str]


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """retention: words for those that occur often."""

    retention: dict[str, str]
    tables: dict[str, Table]
    log: LogFields
    metrics: MetricLabels
    memory: Memory

    def words(self, retention: str) -> str:
        return self.retention.get(retention, retention)

    def rows(self) -> Iterator[dict[str, str]]:
        """One for each column of each table."""
        for name, table in self.tables.items():
            for column, declared in table.columns.items():
                one = declared if isinstance(declared, Column) else Column(purpose=declared)
                yield {
                    "table": name,
                    "column": column,
                    "purpose": one.purpose,
                    "retention": self.words(one.retention or table.retention),
                    "deletion": one.deletion or (table.deletion if table.about == "users" else ""),
                }


def load_manifest() -> Manifest:
    """The one that comes with this code."""
    text = importlib.resources.files("chatty.admin").joinpath("privacy.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), Manifest)


_PAGE = """# What is stored, and for how long

Made by `chatty-admin privacy --markdown` from `chatty/admin/privacy.toml`; the test suite compares that file with the live
schema, the logs and the metrics, and fails for whatever is not declared. What people say to each other is not here: the server
has ciphertexts alone ([security.md](security.md)). User agents are stored nowhere.

*After deletion* says what is left when an account is deleted and its receipt says that the deletion has ended. User id, device
ids and public keys of the user then stand nowhere in the database but where this page says that something stays; a test looks for
them in a dump, and in every byte of the data directory. For dead rows and the write-ahead log stay in PostgreSQL's files until
these are used again: `VACUUM FULL`, a switch of the log and two checkpoints, with `wal_recycle` off, are the end of them. The
operator's logs and backups keep what was erased for as long as they are kept themselves.
"""


def markdown(manifest: Manifest) -> str:
    """The page, with a line feed at its end."""
    parts = [_PAGE, "## Tables\n"]
    for name, table in manifest.tables.items():
        rows = [row for row in manifest.rows() if row["table"] == name]
        head = f"**`{name}`.** {table.what} Kept {manifest.words(table.retention)}."
        about = [f"After deletion: {table.deletion}."] if table.about == "users" else ["About nobody."]
        parts += [f"{head} {' '.join(about)}\n", _table(["column", "what for"], [_cells(row, table) for row in rows])]
    parts += ["## Log fields\n", f"Kept {manifest.words(manifest.log.retention)}.\n"]
    parts += [_table(["field", "what it says"], _pairs(manifest.log.fields)), "## Metric labels\n"]
    parts += [f"Kept {manifest.words(manifest.metrics.retention)}, and by whoever collects them.\n"]
    parts += [_table(["label", "what it says"], _pairs(manifest.metrics.labels)), "## Memory\n"]
    parts += [
        f"Only {manifest.words(manifest.memory.retention)}.\n",
        _table(["what", ""], _pairs(manifest.memory.kept)),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _cells(row: Mapping[str, str], table: Table) -> list[str]:
    declared = table.columns[row["column"]]
    differs = isinstance(declared, Column) and (declared.retention or declared.deletion)
    return [f"`{row['column']}`", row["purpose"] + (f" Kept {row['retention']}." if differs else "")]


def _pairs(texts: Mapping[str, str]) -> list[list[str]]:
    return [[f"`{name}`", text] for name, text in texts.items()]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows), ""])


@click.command(epilog="Example: chatty-admin privacy --markdown")
@json_option
@click.option("--markdown", "as_markdown", is_flag=True, help="The page of the documentation.")
def privacy(as_json: bool, as_markdown: bool) -> None:
    """Show what is stored about people, what for, for how long, and what an account's deletion leaves of it."""
    manifest = load_manifest()
    if as_markdown:
        click.echo(markdown(manifest), nl=False)
        return
    declared: dict[str, Any] = msgspec.to_builtins(manifest)
    (render.print_json(declared) if as_json else render.print_rows(list(manifest.rows())))
