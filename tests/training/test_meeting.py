"""Processes meet, or those that wait say who is missing."""

import socket
import threading
import time

import pytest

from mtlflax.errors import UserError
from mtlflax.training import meeting

pytestmark = pytest.mark.quick


STRANGE = [
    b'{"process": 1e999, "of": 2}\n',
    b"[" * 900 + b"\n",
    b'{"process": 7, "of": 2}\n',
    b'{"process": -1, "of": 2}\n',
]


def free_port():
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def meet(port, processes, seconds=20.0):
    """Start (number, count) each in a thread; return what each ended with: "met", or its error."""
    ends = {}

    def one(key, number, count):
        try:
            meeting.meet(f"localhost:{port}", count, number, seconds)
            ends[key] = "met"
        except UserError as error:
            ends[key] = str(error)

    threads = [threading.Thread(target=one, args=(i, *each)) for i, each in enumerate(processes)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join(60)
    return [ends[i] for i in range(len(processes))]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_all_meet_in_any_order_and_the_port_is_free_again(order):
    port = free_port()
    assert meet(port, [(number, 4) for number in order]) == ["met"] * 4
    socket.create_server(("", port)).close()


def test_who_is_missing_is_named_to_all():
    ends = meet(free_port(), [(0, 4), (2, 4)], seconds=1.5)
    assert "2 of 4 processes at localhost:" in ends[0]
    assert ": 1, 3 did not come within 1.5 s" in ends[0]
    assert ": 1, 3 did not come" in ends[1] or "the other processes of 4" in ends[1]
    (alone,) = meet(free_port(), [(1, 2)], seconds=1.0)
    assert "process 0 of 2 at localhost:" in alone
    assert "could not be reached within 1 s" in alone


def test_while_they_wait_they_say_for_whom(monkeypatch, capsys):
    monkeypatch.setattr(meeting, "_SAY_EVERY", 0.5)
    meet(free_port(), [(0, 3), (2, 3)], seconds=2.5)
    said = capsys.readouterr().err
    assert "waiting for 1 of 3 processes at localhost:" in said
    assert "waiting for the other processes of 3, at localhost:" in said


def test_the_same_number_twice_and_another_count_are_said():
    ends = meet(free_port(), [(0, 3), (1, 3), (1, 3)], seconds=10)
    assert all("two processes are number 1" in end for end in ends)
    ends = meet(free_port(), [(0, 3), (1, 2)], seconds=10)
    assert all("process 1 at " in end and "one of 2 processes, process 0 as one of 3" in end for end in ends)


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as server:
        (end,) = meet(server.getsockname()[1], [(0, 2)])
    assert "cannot listen at port" in end


def test_what_looks_for_open_ports_is_no_process():
    port = free_port()

    def scan():
        time.sleep(0.3)
        for content in (b"", b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"process": "x"}\n', *STRANGE):
            with socket.create_connection(("localhost", port)) as connection:
                connection.sendall(content)

    scanner = threading.Thread(target=scan)
    scanner.start()
    late = threading.Timer(2.0, lambda: meeting.meet(f"localhost:{port}", 2, 1, 20))
    late.start()
    assert meet(port, [(0, 2)]) == ["met"]
    scanner.join()
    late.join()


def test_one_that_was_started_again_takes_its_own_place():
    """Its first connection is dead; and one that has died while others are waited for is missing again."""
    port = free_port()

    def comes_and_dies():
        time.sleep(0.3)
        for _ in range(2):
            with socket.create_connection(("localhost", port)) as connection:
                connection.sendall(b'{"process": 1, "of": 3}\n')
                time.sleep(0.2)
        time.sleep(0.5)
        threads = [threading.Thread(target=meeting.meet, args=(f"localhost:{port}", 3, i, 20)) for i in (2, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    others = threading.Thread(target=comes_and_dies)
    others.start()
    assert meet(port, [(0, 3)]) == ["met"]
    others.join()


def test_one_that_is_slow_does_not_stop_the_clock():
    port = free_port()

    def slowly():
        time.sleep(0.2)
        with socket.create_connection(("localhost", port)) as connection:
            for _ in range(12):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return
                time.sleep(0.5)

    slow = threading.Thread(target=slowly)
    slow.start()
    began = time.monotonic()
    (end,) = meet(port, [(0, 2)], seconds=2)
    assert "did not come within 2 s" in end
    assert time.monotonic() - began < 5
    slow.join()


def test_those_who_came_are_not_told_that_they_could_not():
    port = free_port()
    ends = meet(port, [(1, 3), (0, 3)], seconds=1.5)
    assert "did not" in ends[0]
    assert "could not be reached" not in ends[0]
    (unknown,) = meet(free_port(), [(1, 2)], seconds=1)
    assert "refused" in unknown
