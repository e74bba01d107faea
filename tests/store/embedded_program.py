"""A Chatty that only runs the embedded PostgreSQL: says when it is up, then waits. Arguments: directory, fallback, user id.

With a user id it becomes that user after all modules are imported, for the interpreter itself may live where only root gets in.
"""

import os
import sys
from pathlib import Path

import trio

from chatty.errors import ChattyError
from chatty.store.connection import open_connection
from chatty.store.embedded import open_embedded


async def main(root: Path, fallback_root: Path) -> None:
    async with (
        open_embedded(root, fallback_root=fallback_root) as server,
        open_connection(server.address) as connection,
    ):
        await connection.execute("CREATE TABLE IF NOT EXISTS start (id int GENERATED ALWAYS AS IDENTITY)")
        await connection.execute("INSERT INTO start DEFAULT VALUES")
        found = await (await connection.execute("SELECT count(*) FROM start")).fetchone()
        print("up", server.pid, found and found[0], server.data_directory, server.program("postgres"), flush=True)
        await trio.sleep_forever()


def become(uid: int) -> None:
    os.chdir("/")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        become(int(sys.argv[3]))
    try:
        trio.run(main, Path(sys.argv[1]), Path(sys.argv[2]))
    except ChattyError as error:
        print("refused", error.code, flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
