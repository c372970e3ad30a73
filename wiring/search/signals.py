"""Ctrl-C and SIGTERM: raised as an exception, or, while a search computes, kept until its step is done.

>>> with kept() as arrived:
...     step()
...     if arrived:
...         save()
...         raise Stopped(arrived[0])
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal of that number stopped the program; a shell's exit status for it is ``status``."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


@contextmanager
def raised() -> Iterator[None]:
    """Raise Stopped inside the block when a signal arrives, so that files, pools and kernels are closed.

    Python drops what is raised in a finaliser or in a weak reference's callback; the signal is then sent once more.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    def dropped(unraisable: "sys.UnraisableHookArgs") -> None:
        if isinstance(unraisable.exc_value, Stopped):
            threading.Timer(0.01, os.kill, (os.getpid(), unraisable.exc_value.status - 128)).start()
        else:
            before(unraisable)

    before, sys.unraisablehook = sys.unraisablehook, dropped
    try:
        with _handled(stop):
            yield
    finally:
        sys.unraisablehook = before


@contextmanager
def kept() -> Iterator[list[int]]:
    """The numbers of the signals that arrived inside the block, which goes on; a second one raises Stopped at once."""
    arrived: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        if len(arrived) > 1:
            raise Stopped(number)

    with _handled(keep):
        yield arrived


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle the signals inside the block; only a process' main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in NUMBERS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
