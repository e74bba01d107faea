"""How much of what could go on for ever a run does: little in `make test`, all of it in `make test-long`."""

import os


def counted(*, small: int, full: int) -> int:
    """The full count when CHATTY_TEST_COUNTS=full, else the small one."""
    return full if os.environ.get("CHATTY_TEST_COUNTS") == "full" else small
