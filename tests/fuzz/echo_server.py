"""Test only: the gateway's own socket on our own Hypercorn configuration, behind which somebody sends back what it receives.

The conformance cases know no subprotocol of ours and send frames that are no requests, so the session's place is taken by an
echo; everything below it is the product's. Prints one line, the WebSocket's address, and serves until it is killed.
"""

import logging
import tempfile
from functools import partial
from pathlib import Path

import trio
from quart import websocket
from quart_trio import QuartTrio

from chatty.actors.sessions import SocketClosed
from chatty.cli import hypercorn_config
from chatty.config import Settings
from chatty.web.gateway import QuartSocket
from chatty.web.listener import serve

frame_bytes_max = 16 * 1024 * 1024  # the largest of the cases


def make_echo() -> QuartTrio:
    app = QuartTrio("echo", static_folder=None, template_folder=None)

    async def echo() -> None:
        inner = websocket._get_current_object()  # type: ignore[attr-defined]
        await inner.accept()
        socket = QuartSocket(inner, "msgpack")
        try:
            while True:
                await socket.send_message(await socket.receive_message())
        except SocketClosed:
            pass
        finally:
            socket.note_gone()

    app.add_websocket("/", endpoint="echo", view_func=echo)
    return app


async def main() -> None:
    logging.basicConfig(level=logging.INFO)
    with tempfile.TemporaryDirectory() as directory:
        settings = Settings(
            data_dir=Path(directory), port=0, frame_bytes_max=frame_bytes_max, outbox_bytes_max=frame_bytes_max
        )
        async with trio.open_nursery() as nursery:
            config = hypercorn_config(settings)
            config.websocket_ping_interval = None  # the cases expect to be sent nothing but what they asked for
            run = partial(serve, make_echo(), config, shutdown_trigger=trio.sleep_forever)
            [bound] = await nursery.start(run)
            print(bound.replace("http", "ws", 1), flush=True)


if __name__ == "__main__":
    trio.run(main)
