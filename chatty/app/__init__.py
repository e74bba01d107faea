"""The only wiring: settings in, a running application out.

open_app() opens, in this order, the pool, the server's keys, the journal's connections and the actor tree (journal, rooms,
sessions, watch, janitor, console), and gives the ASGI application; leaving the block drains them in reverse. Under `chatty up`
and `chatty serve` (cli.py) Hypercorn runs inside that block, so that sockets are told before they die. Under a plain ASGI server
the lifespan opens and closes the same block: `hypercorn -k trio 'chatty.app:make_asgi()'`.
"""

from chatty.app.asgi import leaf_of, make_asgi
from chatty.app.database import make_data_dir
from chatty.app.process import Hooks, generous
from chatty.app.running import App, open_app

__all__ = ["App", "Hooks", "generous", "leaf_of", "make_asgi", "make_data_dir", "open_app"]
