"""Processes of a run meet before JAX joins them: so that who is missing can be said while the others wait.

Process 0 listens at the coordinator's address; each other one connects, says who it is, and hears "go" when all are
there. Then the port is free again, and JAX's own service opens on it. JAX by itself waits without a word, and ends
with an error that names nobody.
"""

import json
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from mtlflax.errors import UserError

_SAY_EVERY = 10.0  # seconds
_Peer = tuple[socket.socket, str]  # a process that has connected, and where it is


def meet(address: str, count: int, index: int, seconds: float) -> None:
    """Return when all processes of a run have called this; say, every 10 seconds, for whom this one waits.

    Args:
        address: host:port of process 0.
        count: of processes.
        index: this process's.
        seconds: how long to wait.

    Raises:
        UserError: the others did not come in time, and which; the port is taken; two processes have one number, or
            another count.
    """
    waiting = _Waiting(seconds)
    if index:
        _report(address, count, index, waiting)
    else:
        _gather(address, count, waiting)


class _Waiting:
    """How long to wait, and when to say so."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._began = self._told = time.monotonic()

    def left(self) -> float:
        return self._began + self.seconds - time.monotonic()

    def say(self, text: str) -> None:
        if time.monotonic() - self._told > _SAY_EVERY:
            self._told = time.monotonic()
            print(f"waiting for {text} ({self.left():.0f} s left)", file=sys.stderr, flush=True)


def _gather(address: str, count: int, waiting: _Waiting) -> None:
    """Process 0: wait for all others."""
    host, _, port = address.rpartition(":")
    present: dict[int, _Peer] = {}
    with ExitStack() as stack:
        listener = stack.enter_context(_listening(int(port)))
        while len(present) < count - 1 or not _are_there(present):
            missing = ", ".join(str(i) for i in range(1, count) if i not in present)
            who = f"{count - 1 - len(present)} of {count} processes at {address}: {missing}"
            waiting.say(who)
            if waiting.left() <= 0:
                late = f"{who} did not come within {waiting.seconds:g} s"
                _tell_error([other for other, _ in present.values()], late)
                raise UserError(
                    f"{late}: are they started, with the same address, and can they reach {host} at port {port}? "
                    "(MTLFLAX_START_TIMEOUT is how long to wait)"
                )
            try:
                other, where = listener.accept()
            except TimeoutError:
                continue
            stack.callback(other.close)
            here = where[0].removeprefix("::ffff:")
            number = _introduction(other, count, present, here)
            if number is not None:
                present[number] = other, here
        for other, _ in present.values():
            with suppress(OSError):  # one that has gone since: JAX waits for it, and says so
                other.sendall(b'{"go": true}\n')
        for other, _ in present.values():
            with suppress(OSError):
                other.recv(1)  # it closes first, so that nothing keeps the port


def _are_there(present: dict[int, _Peer]) -> bool:
    """Whether all who have come are still there; those who are not are forgotten."""
    before = len(present)
    for number, (other, _) in list(present.items()):
        other.setblocking(False)
        try:
            gone = other.recv(1) == b""
        except BlockingIOError:
            gone = False
        except OSError:
            gone = True
        other.settimeout(1)
        if gone:
            del present[number]
    return len(present) == before


def _introduction(other: socket.socket, count: int, present: dict[int, _Peer], host: str) -> int | None:
    """Read who has connected; None if it was something else. UserError, told to all, if it does not belong here."""
    try:
        said = _read(other)
        number, of = int(said["process"]), int(said["of"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None  # not a process of ours, as what looks for open ports
    if not 1 <= number < max(of, 2):
        return None
    _are_there(present)  # one that was started again comes twice
    wrong = ""
    if of != count:
        wrong = f"process {number} at {host} was started as one of {of} processes, process 0 as one of {count}"
    elif number in present:
        wrong = f"two processes are number {number}, at {present[number][1]} and at {host}"
    if wrong:
        _tell_error([other, *(each for each, _ in present.values())], wrong)
        raise UserError(f"{wrong}: give each process its own number, and all the same count")
    return number


def _tell_error(others: Iterable[socket.socket], text: str) -> None:
    for other in others:
        with suppress(OSError):  # one that has gone
            other.sendall(json.dumps({"error": text}).encode() + b"\n")


def _report(address: str, count: int, index: int, waiting: _Waiting) -> None:
    """Another process: tell process 0, and wait for its word."""
    host, _, port = address.rpartition(":")
    who, others = f"process 0 of {count} at {address}", f"the other processes of {count}, at {address}"
    why, connected = "", False
    while True:
        waiting.say(who)
        if waiting.left() <= 0 and connected:
            raise UserError(f"{others}, did not all come within {waiting.seconds:g} s")
        if waiting.left() <= 0:
            raise UserError(
                f"{who} could not be reached within {waiting.seconds:g} s ({why}): is it started, and is the port "
                "open? (MTLFLAX_START_TIMEOUT is how long to wait)"
            )
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=1) as connection:
                connection.sendall(json.dumps({"process": index, "of": count}).encode() + b"\n")
                connected = True
                said = _read(connection, waiting, others)
            if said.get("go"):
                return
            if "error" in said:
                raise UserError(str(said["error"]))
        except (OSError, ValueError) as error:
            why = str(error)
            time.sleep(0.2)  # not there yet, or ended before all had come


def _read(connection: socket.socket, waiting: _Waiting | None = None, who: str = "") -> dict[str, Any]:
    """Read a line of JSON; wait for it as long as `waiting` says, or a second in all."""
    connection.settimeout(1)
    data, begun = b"", time.monotonic()
    while not data.endswith(b"\n") and len(data) < 1000:
        if waiting is None and time.monotonic() - begun > 1:
            raise TimeoutError("slow")
        try:
            part = connection.recv(1000)
        except TimeoutError:
            if waiting is None or waiting.left() <= 0:
                raise
            waiting.say(who)
            continue
        if not part:
            raise ConnectionError("closed")
        data += part
    said = json.loads(data)
    if not isinstance(said, dict):
        raise ValueError("not an object")
    return said


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    try:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        listener = socket.create_server(("", port), family=family, dualstack_ipv6=dual, backlog=1024)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen at port {port} ({error.strerror}): is another run using it?"
        ) from error
    with listener:
        listener.settimeout(1)
        yield listener
