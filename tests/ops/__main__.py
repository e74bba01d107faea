"""`make ops-check`: what is shipped for Prometheus, with Debian's own programs: the rules are read, and a real Prometheus scrapes
a real server once. Exit 0: the rules are right, the server was scraped, every rule was evaluated without an error.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import trio

from tests.faults.chatty_process import free_port, open_chatty_up
from tests.server.wire_client import ciphertext, open_live_socket
from tests.server.wire_people import sign_up

OPS = Path(__file__).resolve().parents[2] / "ops" / "prometheus"
patience_s = 60.0


def check_files() -> int:
    """promtool's verdict on rules and configuration."""
    codes = [
        subprocess.run(["promtool", "check", "rules", str(OPS / "chatty.rules.yml")]).returncode,
        subprocess.run(["promtool", "check", "config", str(OPS / "prometheus.yml")]).returncode,
    ]
    return max(codes)


async def scrape(folder: Path) -> dict[str, Any]:
    """What Prometheus says of its target and of the rules, once it has scraped a server on which something happened."""
    data_dir = folder / "chatty"
    data_dir.mkdir(mode=0o700)
    async with open_chatty_up(data_dir) as server, httpx.AsyncClient(base_url=server.origin, timeout=20) as http:
        ann = await sign_up(http, "ann", origin=server.origin)
        room = await ann.create_room()
        async with open_live_socket(ann) as socket:
            await socket.send(room.id, ciphertext(), epoch=room.epoch)
        async with trio.open_nursery() as nursery:
            origin = await nursery.start(run_prometheus, folder, server.port)
            with trio.fail_after(patience_s):
                found = await ask_until_scraped(origin)
            nursery.cancel_scope.cancel()
        return found


async def run_prometheus(folder: Path, target_port: int, *, task_status: trio.TaskStatus[str]) -> None:
    """The shipped example, with this server's port and a shorter interval."""
    example = (OPS / "prometheus.yml").read_text(encoding="utf-8")
    config = folder / "prometheus.yml"
    config.write_text(example.replace("127.0.0.1:8000", f"127.0.0.1:{target_port}").replace("15s", "1s"))
    shutil.copy(OPS / "chatty.rules.yml", folder)
    port = free_port()
    options = (
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    )
    task_status.started(f"http://127.0.0.1:{port}")
    await trio.run_process(["prometheus", *options], check=False)


async def ask_until_scraped(origin: str) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=origin, timeout=5) as http:
        while True:
            try:
                up = (await http.get("/api/v1/query", params={"query": 'up{job="chatty"} == 1'})).json()
                rules = (await http.get("/api/v1/rules")).json()["data"]["groups"]
            except (httpx.HTTPError, json.JSONDecodeError, KeyError):
                up, rules = {}, []
            found = [rule for group in rules for rule in group["rules"]]
            if up.get("data", {}).get("result") and found and all(rule["health"] != "unknown" for rule in found):
                series = (await http.get("/api/v1/query", params={"query": "chatty_journal_batch_size_sum"})).json()
                return {"messages": series["data"]["result"], "rules": found}
            await trio.sleep(0.2)


def main() -> int:
    if code := check_files():
        return code
    with tempfile.TemporaryDirectory(prefix="chatty-ops-") as directory:
        Path(directory).chmod(0o755)
        found = trio.run(scrape, Path(directory))
    broken = [rule for rule in found["rules"] if rule["health"] != "ok"]
    firing = [rule["name"] for rule in found["rules"] if rule.get("state") == "firing"]
    messages_count = sum(float(one["value"][1]) for one in found["messages"])
    print(
        f"scraped: {messages_count:.0f} messages; {len(found['rules'])} rules, {len(broken)} broken, firing: {firing}"
    )
    return 0 if messages_count == 1 and not broken and not firing else 1


if __name__ == "__main__":
    sys.exit(main())
