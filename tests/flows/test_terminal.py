"""What a command does about the signals of the terminal it was typed in."""

import signal

import pytest

from flows.terminal import as_interrupt, held_signals

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_what_cannot_be_interrupted_is_over(number: signal.Signals):
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, as_interrupt)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    finished = []

    def work() -> None:
        with held_signals():
            signal.raise_signal(number)
            finished.append(True)

    try:
        with pytest.raises(KeyboardInterrupt):
            work()
        assert finished
        with pytest.raises(KeyboardInterrupt):  # and from then on it counts at once, as before
            signal.raise_signal(number)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_a_ctrl_c_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held_signals():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
