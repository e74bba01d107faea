"""Test only: the gateway's own sockets on our own Hypercorn configuration, behind which somebody sends back what it receives.

The conformance cases know no subprotocol of ours and send frames that are no requests, so the session's place is taken by an
echo; everything below it is the product's. Its argument: direct or plain.
Prints one line, the WebSocket's address, and serves until it is killed.
"""

import logging
import sys
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio
from quart import websocket
from quart_trio import QuartTrio

from chatty.actors.sessions import SocketClosed
from chatty.cli import hypercorn_config
from chatty.config import Settings
from chatty.web.admission import Admission
from chatty.web.direct import DirectSocket, accepted
from chatty.web.gateway import QuartSocket
from chatty.web.listener import serve
from chatty.web.tcp import direct_of

frame_bytes_max = 16 * 1024 * 1024  # the largest of the cases


def make_echo() -> QuartTrio:
    app = QuartTrio("echo", static_folder=None, template_folder=None)

    async def echo() -> None:
        inner = websocket._get_current_object()  # type: ignore[attr-defined]
        await inner.accept()
        socket = QuartSocket(inner, "msgpack")
        try:
            await send_back(socket)
        finally:
            socket.note_gone()

    app.add_websocket("/", endpoint="echo", view_func=echo)
    return app


async def direct_echo(scope: Any, receive: Any, send: Any) -> None:
    """The same on the direct path."""
    if scope["type"] != "websocket":
        await make_echo()(scope, receive, send)
        return
    direct, admission = direct_of(scope), Admission()
    assert direct is not None, "no direct path here"
    async with accepted(direct, admission, receive, send):
        await send_back(DirectSocket(direct, admission, send, "msgpack"))


async def send_back(socket: QuartSocket | DirectSocket) -> None:
    with suppress(SocketClosed):
        while True:
            await socket.send_message(await socket.receive_message())


async def main(path: str) -> None:
    logging.basicConfig(level=logging.INFO)
    with tempfile.TemporaryDirectory() as directory:
        settings = Settings(
            data_dir=Path(directory), port=0, frame_bytes_max=frame_bytes_max, outbox_bytes_max=frame_bytes_max
        )
        async with trio.open_nursery() as nursery:
            config = hypercorn_config(settings)
            config.websocket_ping_interval = None  # the cases expect to be sent nothing but what they asked for
            app = direct_echo if path == "direct" else make_echo()
            run = partial(serve, app, config, shutdown_trigger=trio.sleep_forever)
            [bound] = await nursery.start(run)
            print(bound.replace("http", "ws", 1), flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
