"""`make fuzz`: the WebSocket conformance cases against the gateway's sockets, direct and plain. Exit 0: none failed and nothing
was raised.

Excluded are 12.* and 13.* (compression: what we carry is ciphertext). Further arguments go to kosoku: ARGS='-i 5.*'.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

_ACCEPTED = {"OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED"}
_CHOSEN = ["-p", "2", "-x", "12.*", "-x", "13.*"]


def main(arguments: list[str]) -> int:
    return max([run(path, arguments) for path in ("direct", "plain")])


def run(path: str, arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="chatty-fuzz-") as directory:
        folder = Path(directory)
        began = time.monotonic()
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.echo_server", path], stdout=subprocess.PIPE, stderr=log, text=True
            )
            try:
                assert server.stdout is not None
                address = server.stdout.readline().strip()
                command = [
                    str(Path(sys.executable).with_name("kosoku")),
                    *_CHOSEN,
                    "-o",
                    str(folder / "out"),
                    *arguments,
                ]
                subprocess.run([*command, address], check=False, stdout=subprocess.DEVNULL)
                is_alive = server.poll() is None
            finally:
                server.kill()
                server.wait()
        failed = report(folder / "out" / "index.json")
        logged = (folder / "log").read_text()
    print(f"{path}: {time.monotonic() - began:.0f} s")
    if not is_alive or "Traceback" in logged:
        print("the server's log:", logged, sep="\n", file=sys.stderr)
        return 1
    return 1 if failed else 0


def report(index: Path) -> list[str]:
    """Print how the cases ended. Returns those that did not pass; one entry for no cases at all."""
    [cases] = json.loads(index.read_text()).values() if index.exists() else [{}]
    ends = {case: {result["behavior"], result["behaviorClose"]} for case, result in cases.items()}
    failed = sorted(case for case, end in ends.items() if not end <= _ACCEPTED)
    counted = Counter(result["behavior"] for result in cases.values())
    print(f"{len(cases)} cases:", ", ".join(f"{count} {name}" for name, count in sorted(counted.items())))
    print(f"{len(failed)} FAILED", *failed)
    return failed if cases else ["no case ran"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
