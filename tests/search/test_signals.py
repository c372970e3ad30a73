"""A signal stops the program wherever it finds it."""

import signal
import sys
import time

import pytest

from wiring.search.signals import Stopped, raised


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_where_python_drops_exceptions_is_not_lost(number, capfd):
    class Finalised:
        def __del__(self):
            signal.raise_signal(number)

    def work():
        with raised():
            Finalised()
            time.sleep(5)

    before = sys.unraisablehook
    with pytest.raises(Stopped) as stopped:
        work()
    assert stopped.value.status == 128 + number
    assert capfd.readouterr().err == ""
    assert sys.unraisablehook is before
