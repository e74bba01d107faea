"""What a migration file and a schema version are; the runner and schema.py share it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Migration:
    version: int
    compatible_from: int
    path: Path

    @property
    def sql(self) -> str:
        return self.path.read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class SchemaVersion:
    """version 0: an empty database."""

    version: int
    compatible_from: int
