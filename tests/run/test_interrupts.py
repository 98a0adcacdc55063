"""Signals are deferred while a library must not be interrupted."""

import signal
import threading

from mtlflax.run import signals
from mtlflax.run.signals import deferred, raise_pending


def raise_deferred(*signals, error=None):
    """Raises signals in a block; returns how many had been raised when it was left."""
    count = 0
    try:
        with deferred():
            for signum in signals:
                signal.raise_signal(signum)
                count += 1
            if error:
                raise error
    except KeyboardInterrupt:
        return count
    raise AssertionError("nothing was interrupted")


def test_a_signal_acts_when_the_block_is_left():
    assert raise_deferred(signal.SIGINT) == 1
    assert raise_deferred(signal.SIGINT, error=OSError("full")) == 1


def test_a_second_one_acts_at_once():
    assert raise_deferred(signal.SIGINT, signal.SIGINT) == 1


def test_raise_pending_is_where_it_acts():
    reached = []
    raise_pending()
    try:
        with deferred():
            raise_pending()
            try:
                signal.raise_signal(signal.SIGINT)
                reached.append("after the signal")
                raise_pending()
                reached.append("never")
            finally:
                signal.raise_signal(signal.SIGINT)  # deferred again while things are closed
                reached.append("closed")
    except KeyboardInterrupt:
        reached.append("interrupted")
    assert reached == ["after the signal", "closed", "interrupted"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_block_within_another_adds_nothing():
    reached = False
    try:
        with deferred():
            with deferred():
                signal.raise_signal(signal.SIGINT)
            reached = True
    except KeyboardInterrupt:
        pass
    assert reached


def test_the_handlers_are_those_of_before():
    before = signal.getsignal(signal.SIGTERM)
    seen = []
    signal.signal(signal.SIGTERM, lambda signum, _: seen.append(signum))
    try:
        own = signal.getsignal(signal.SIGTERM)
        with deferred():
            signal.raise_signal(signal.SIGTERM)
            assert seen == []
        assert seen == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_are_left_alone():
    def work():
        with deferred():
            pass

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_block_left_by_stopped_has_done_what_the_signal_asked_for():
    """The handlers are those of before, so that a second run in the process can be stopped too."""
    before = signal.getsignal(signal.SIGTERM)
    for _ in range(2):
        try:
            with deferred():
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGTERM)  # it may come again
                assert signals.pending() == "SIGTERM"
                raise signals.Stopped
        except signals.Stopped:
            pass
        assert signals.pending() == ""
        assert signal.getsignal(signal.SIGTERM) is before


def test_where_nothing_need_be_saved_it_stops_at_once_and_once():
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signals.stop_now)
    try:
        reached = []
        try:
            signal.raise_signal(signal.SIGTERM)
        except signals.Stopped as stopped:
            reached.append(str(stopped))
        signal.raise_signal(signal.SIGTERM)
        assert reached == ["SIGTERM"]
    finally:
        signal.signal(signal.SIGTERM, before)
