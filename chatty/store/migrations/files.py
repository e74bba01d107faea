"""What a migration file and a schema version are; the runner and schema.py share it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Progress = Callable[[str, int, int], None]  # of a backfill: its file, rows done, rows left


@dataclass(frozen=True, kw_only=True)
class Migration:
    """about: what it is for, one line. back, backfill: files beside it, where there are some; None: there is none."""

    version: int
    compatible_from: int
    path: Path
    about: str = ""
    back: Path | None = None
    backfill: Path | None = None

    @property
    def sql(self) -> str:
        return self.path.read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class SchemaVersion:
    """version 0: an empty database."""

    version: int
    compatible_from: int
