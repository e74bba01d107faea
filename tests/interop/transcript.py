"""What a run prints: a heading for each chapter, who said what, and a line with ✓ for each check."""

import time


class Failed(Exception):
    """A check that did not hold, or a part that did not answer; ends the run with exit 1."""


class Transcript:
    def __init__(self) -> None:
        self.checks_count = 0
        self._began = time.monotonic()

    def chapter(self, title: str) -> None:
        print(f"\n{title}")

    def said(self, who: str, text: str) -> None:
        print(f"    {who}: “{text}”")

    def check(self, what: str, holds: bool, *, seen: object = "") -> None:
        """Print the line; the first that does not hold ends the run. Raises: Failed."""
        print(f"  {'✓' if holds else '✗'} {what}", flush=True)
        self.checks_count += 1
        if not holds:
            raise Failed(f"{what}: {seen}" if seen != "" else what)

    def equal(self, what: str, actual: object, expected: object) -> None:
        self.check(what, actual == expected, seen=f"{actual!r} instead of {expected!r}")

    def end(self) -> None:
        print(f"\n{self.checks_count} checks hold, in {time.monotonic() - self._began:.0f} s")
