"""A process that starts runs in children of its own (a fork: torch is imported once) and ends them in the middle.

``python killing.py FOLDER`` reads ``{name: [command line, number of random kills]}`` from the standard input, runs each
command in ``FOLDER/name-whole`` without kills and in ``FOLDER/name`` through them (0: one at every write), and prints,
as JSON lines, what happened: ``[name, how, exit status, standard error]``.
"""

import json
import os
import random
import signal
import sys
import time
from importlib import import_module
from pathlib import Path

import torch
from short_run import without_progress

from wiring.__main__ import main

# What a run imports, so that no child takes seconds to import it. No search is run here: autograd's threads, which its
# first backward pass starts, would be missing in a child.
for module in ("wiring.datasets", "wiring.search"):
    import_module(module)

KINDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def child(arguments, errors, prepare=lambda: None, out=os.devnull):
    """Run the command in a child that writes into these files; returns its process number."""
    number = os.fork()
    if number == 0:
        status = 99
        try:
            for target, file in ((1, out), (2, errors)):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), target)
            prepare()
            status = main(arguments)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return number


def status_of(number):
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def report(name, how, status, errors):
    print(json.dumps([name, how, status, without_progress(errors.read_text())]), flush=True)


def kill_at_random(name, arguments, errors, random, kills, longest):
    """End the run so often, after a random time each of at most so many seconds, then let it finish."""
    for kind in KINDS * (kills // len(KINDS)):
        number = child(arguments, errors)
        time.sleep(random.uniform(0.0, longest))
        os.kill(number, kind)
        report(name, kind.name, status_of(number), errors)
    report(name, "finished", status_of(child(arguments, errors)), errors)


def kill_at_every_write(name, arguments, errors):
    """End the run at its first call that changes the disk, then resume and end it at the second, and so on."""
    for call in range(1, 1000):

        def prepare(call=call):
            calls = [0]

            def deadly(function):
                def wrapper(*arguments, **options):
                    calls[0] += 1
                    if calls[0] == call:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return function(*arguments, **options)

                return wrapper

            os.fsync, os.replace, os.rename = map(deadly, (os.fsync, os.replace, os.rename))

        status = status_of(child(arguments, errors, prepare))
        report(name, "finished" if status >= 0 else "write", status, errors)
        if status >= 0:
            return


if __name__ == "__main__":
    torch.set_num_threads(1)
    # A signal may come before main: it then ends the child, as it ends any program that has not begun.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    root, draws = Path(sys.argv[1]), random.Random(0)
    for name, (command, kills) in json.load(sys.stdin).items():
        arguments, errors = [*command, "--out", str(root / name)], root / "errors"
        started = time.perf_counter()
        report(name, "finished", status_of(child([*command, "--out", str(root / f"{name}-whole")], errors)), errors)
        if kills:
            # A seventh of what the whole run takes on this machine: nine kills find it at work, each time further on.
            kill_at_random(name, arguments, errors, draws, kills, 0.15 * (time.perf_counter() - started))
        else:
            kill_at_every_write(name, arguments, errors)
