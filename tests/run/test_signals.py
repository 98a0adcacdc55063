"""Signals that arrive where Python drops exceptions are not lost."""

import signal
import time

import pytest

from mtlflax.run import signals


class Interrupted:
    """An object in whose destructor a signal arrives."""

    def __del__(self):
        signal.raise_signal(signal.SIGUSR1)


@pytest.fixture
def usual():
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


HANDLERS = [
    (signals.interrupt, KeyboardInterrupt),
    (signals.leave, SystemExit),
    (signals.stop_now, signals.Stopped),
]


def wait():
    for _ in range(500):
        time.sleep(0.01)


def destroy_and_wait():
    Interrupted()
    wait()


@pytest.mark.usefixtures("usual")
@pytest.mark.parametrize(("handler", "raised"), HANDLERS)
def test_in_a_destructor(handler, raised):
    signal.signal(signal.SIGUSR1, handler)
    with pytest.raises(raised):
        destroy_and_wait()


@pytest.mark.usefixtures("usual")
@pytest.mark.parametrize(("handler", "raised"), HANDLERS)
def test_elsewhere_at_once(handler, raised):
    signal.signal(signal.SIGUSR1, handler)
    with pytest.raises(raised) as caught:
        signal.raise_signal(signal.SIGUSR1)
    if raised is SystemExit:
        assert caught.value.code == 128 + signal.SIGUSR1


def test_jax_calls_what_is_named_here():
    """Its callback of the garbage collector; by another name, Ctrl-C would be lost there again."""
    import gc

    import jax  # noqa: F401 (it adds its callback)

    names = {callback.__name__ for callback in gc.callbacks if callback.__module__.startswith("jax")}
    assert names == {"_xla_gc_callback"} <= set(signals._DROPPING)
