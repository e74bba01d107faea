"""A baseline: what Hypercorn and Quart-Trio cost for one WebSocket message in and out, with nothing of ours around it."""

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import websocket
from quart_trio import QuartTrio

app = QuartTrio(__name__)


@app.websocket("/")
async def echo() -> None:
    while True:
        await websocket.send(await websocket.receive())


async def main() -> None:
    config = Config.from_mapping(bind=["127.0.0.1:0"], accesslog=None, errorlog=None)
    async with trio.open_nursery() as nursery:
        bound = await nursery.start(serve, app, config)
        print(bound[0].rsplit(":", 1)[1], flush=True)


if __name__ == "__main__":
    trio.run(main)
