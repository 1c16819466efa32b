"""How a signal ends a long measurement, wherever it meets the interpreter."""

import signal
import subprocess
import sys

import pytest

IN_A_FINALISER = """
import os, signal, sys, time
from zerofs.bench.interruption import end_by_signals

class Subject:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        time.sleep(0.1)

end_by_signals()
try:
    subject = Subject()
    del subject
    time.sleep(30)
    sys.exit(3)
except KeyboardInterrupt:
    sys.exit(128 + signal.SIGINT)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_meets_a_finaliser_is_not_lost(number):
    program = IN_A_FINALISER.format(name=number.name)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (128 + number, b"")


def test_what_else_goes_wrong_in_a_finaliser_is_said():
    program = IN_A_FINALISER.format(name="SIGINT").replace("os.kill", "1 / 0; os.kill").replace("(30)", "(0)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=60)
    assert done.returncode == 3
    assert b"ZeroDivisionError" in done.stderr
