"""Keys of a terminal, read one at a time without waiting for a line; and what else wakes the screen."""

import os
import select
import signal
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SEQUENCES = {"\x1b[A": "up", "\x1b[B": "down", "\x1bOA": "up", "\x1bOB": "down"}
_SINGLE = {"\r": "enter", "\n": "enter", "\t": "tab", "\x7f": "backspace", "\x08": "backspace", "\x1b": "esc"}


def parse_keys(text: str) -> Iterator[str]:
    """Of what was read at once: names of keys, or the character. Sequences that nobody knows are left out."""
    while text:
        known = next((one for one in _SEQUENCES if text.startswith(one)), None)
        if known is not None:
            yield _SEQUENCES[known]
            text = text[len(known) :]
        elif text.startswith(("\x1b[", "\x1bO")):
            end = next((place for place, one in enumerate(text[2:], start=2) if one.isalpha() or one == "~"), len(text))
            text = text[end + 1 :]
        else:
            yield _SINGLE.get(text[0], text[0])
            text = text[1:]


class Keyboard:
    """wake(): from any thread or signal handler, ends a wait."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._waker, False)

    def wait(self, timeout_s: float) -> list[str]:
        """Keys that were pressed; none when the time is up or somebody woke it. Raises: EOFError when the terminal is gone."""
        ready, _, _ = select.select([self._descriptor, self._woken], [], [], max(timeout_s, 0.0))
        if self._woken in ready:
            os.read(self._woken, 1_024)
        if self._descriptor not in ready:
            return []
        data = os.read(self._descriptor, 1_024)
        if not data:
            raise EOFError
        return list(parse_keys(data.decode("utf-8", "replace")))

    def wake(self, *_: int | FrameType | None) -> None:
        with suppress(BlockingIOError):  # it is awake
            os.write(self._waker, b".")

    def close(self) -> None:
        os.close(self._woken)
        os.close(self._waker)


@contextmanager
def open_keyboard(descriptor: int) -> Iterator[Keyboard]:
    """Keys come at once and are not shown; Ctrl-C interrupts. A change of the terminal's size wakes. As before at the end."""
    before = termios.tcgetattr(descriptor)
    keyboard = Keyboard(descriptor)
    handler = signal.signal(signal.SIGWINCH, keyboard.wake)
    try:
        tty.setcbreak(descriptor)
        yield keyboard
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, handler)
        keyboard.close()
