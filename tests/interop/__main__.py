"""`make interop`: our own server, two people with the Python SDK, two with a client of their own under Node.

Exit 0: every check holds. 1: one does not, and the logs follow. 130: interrupted. Nothing is left running or lying about.
"""

import signal
import sys
from pathlib import Path

import trio

from tests.interop.processes import running_node, running_server
from tests.interop.story import Story
from tests.interop.transcript import Failed, Transcript

time_limit_s = 110.0


async def main() -> int:
    outcome = 130
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
        outcome = await _run()
        nursery.cancel_scope.cancel()
    return outcome


async def _stop_on_signal(whole: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            whole.cancel()


async def _run() -> int:
    transcript = Transcript()
    async with running_server() as (origin, folder):
        logs = [folder / "log", folder / "node.log"]
        try:
            with trio.fail_after(time_limit_s):
                async with running_node(origin, logs[1]) as node:
                    await Story(transcript, node).tell(origin, folder)
            return 0
        except* (Failed, trio.TooSlowError) as failures:
            _report(failures, logs)
    return 1


def _report(failures: BaseExceptionGroup[Exception], logs: list[Path]) -> None:
    failure: BaseException = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    print(f"\nFAILED: {str(failure) or type(failure).__name__}", file=sys.stderr)
    for log in logs:
        tail = log.read_text(errors="replace").splitlines()[-20:] if log.exists() else []
        print(f"\n--- the end of {log.name}", *tail, sep="\n", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(trio.run(main))
