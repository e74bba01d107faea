"""What the second client is made of is pinned, and the lock works with any registry."""

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return content


def test_every_package_is_pinned_to_one_version() -> None:
    wanted = read("package.json")["dependencies"]
    locked = read("package-lock.json")["packages"]
    assert wanted == {name: locked[f"node_modules/{name}"]["version"] for name in wanted}


@pytest.mark.parametrize("name", [name for name in read("package-lock.json")["packages"] if name])
def test_the_lock_holds_a_hash_and_no_address(name: str) -> None:
    package = read("package-lock.json")["packages"][name]
    assert package["integrity"].startswith("sha512-")
    assert "resolved" not in package
