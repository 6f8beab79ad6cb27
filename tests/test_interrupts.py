"""Ctrl-C is kept back while processes are started, whichever thread the signal goes to."""

import os
import signal
import threading

import pytest

from etc.interrupts import interrupts_held


@pytest.fixture
def other_thread():
    """A thread that blocks no signal, as libraries start some: it can be the one that is given Ctrl-C."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    yield
    end.set()
    thread.join()


def test_ctrl_c_comes_when_the_block_has_ended(other_thread):
    before, done = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), interrupts_held():
        for step in range(100):
            os.kill(os.getpid(), signal.SIGINT)
            done.append(step)
    assert done == list(range(100))
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_nothing_comes_where_nobody_interrupts_and_an_error_stays_itself():
    before = signal.getsignal(signal.SIGINT)
    with interrupts_held():
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])  # what processes started here inherit
    with pytest.raises(KeyError), interrupts_held():
        raise KeyError
    assert signal.getsignal(signal.SIGINT) is before


def test_a_thread_may_start_processes_too():
    passed = []

    def work():
        with interrupts_held():
            passed.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert passed
