"""Ctrl-C and SIGTERM: raised as an exception, or, while a search computes, kept until its step is done."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """A signal of that number stopped the program; a shell's exit status for it is ``status``."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


@contextmanager
def kept(most: int = 1) -> Iterator[list[int]]:
    """The numbers of the signals that arrived inside the block, which goes on; one more raises Stopped at once.

    Only a process' main thread can handle signals; in another thread nothing arrives.
    """
    arrived: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        if len(arrived) > most:
            raise Stopped(number)

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, keep) for number in numbers}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def raised() -> Iterator[None]:
    """Raise Stopped inside the block when a signal arrives, so that files, pools and kernels are closed.

    Python drops what is raised in a finaliser or in a weak reference's callback; the signal is then sent again, later.
    """

    def dropped(unraisable: "sys.UnraisableHookArgs") -> None:
        if isinstance(unraisable.exc_value, Stopped):
            threading.Timer(0.2, os.kill, (os.getpid(), unraisable.exc_value.status - 128)).start()
        else:
            before(unraisable)

    before, sys.unraisablehook = sys.unraisablehook, dropped
    try:
        with kept(0):
            yield
    finally:
        sys.unraisablehook = before
