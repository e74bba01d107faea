"""The whole demo under one roof: stage, devices, story; and its end by Ctrl-C, which leaves no process and no file behind."""

import signal
import sys
from functools import partial

import msgspec
import trio
from rich.console import Console

from chatty.client.nursery import open_serving_nursery
from chatty.demo.devices import open_devices
from chatty.demo.report import Report
from chatty.demo.stage import Stage, open_own, open_running
from chatty.demo.story import Story, cast
from chatty.demo.transcript import Transcript
from chatty.errors import BadConfiguration
from chatty.telemetry import configure_logging

interrupted_exit_code = 130


def demo(origin: str | None, *, as_json: bool) -> int:
    """Play it. origin: of a running server; None: one is started. Returns: the exit code.

    Raises: ServerUnreachable, BadConfiguration, DemoFailed, Refused.
    """
    configure_logging("error", form="console")
    transcript = Transcript(Console(quiet=as_json, highlight=False))
    report = trio.run(partial(play, origin, transcript))
    if report is None:
        return interrupted_exit_code
    if as_json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    return 0 if report.is_clean else 1


async def play(origin: str | None, transcript: Transcript) -> Report | None:
    """None: a signal interrupted it."""
    report = None
    async with open_serving_nursery() as nursery:
        await nursery.start(_cancel_on_signal, nursery.cancel_scope)
        async with open_own() if origin is None else open_running(origin.rstrip("/")) as stage:
            _check_origin(stage)
            async with open_devices(cast, directory=stage.scratch, origin=stage.origin) as devices:
                report = await Story(stage, devices, transcript).play()
    return report


def _check_origin(stage: Stage) -> None:
    """Log-ins are signed for the address as the user gave it: under another one the server would refuse them."""
    if stage.origin != stage.info.origin:
        raise BadConfiguration(f"the server's own address is another one: use --url {stage.info.origin}")


async def _cancel_on_signal(
    whole: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """SIGINT or SIGTERM: everything ends in order. A second one is Python's own business and cuts that short."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            whole.cancel()
            return
