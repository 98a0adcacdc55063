"""Where the time of a run went."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from mtlflax.run.progress import format_seconds

# In the order in which they are told; "steps" is all the rest of the loop.
_WORDS = {
    "compilation": "compiling the train step",
    "input": "waiting for input",
    "steps": "in train steps",
    "evaluation": "evaluating",
    "checkpoints": "saving checkpoints",
}


class Accounting:
    """Adds up the seconds of this process, from now on, by what they were spent on.

    `seconds` has what `on` has counted so far. `redone_steps` were trained once more, because the process that had
    trained them died before it saved them.
    """

    def __init__(self, redone_steps: int = 0) -> None:
        self._began = time.monotonic()
        self.seconds = dict.fromkeys(_WORDS, 0.0)
        self._redone_steps = redone_steps

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Count the block as "compilation", "input", "evaluation" or "checkpoints"."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[what] += time.monotonic() - began

    def scalars(self) -> dict[str, float]:
        """Return what goes into metrics.jsonl: `seconds/input` and so on, and `redone_steps`."""
        others = sum(seconds for what, seconds in self.seconds.items() if what != "steps")
        found = self.seconds | {"steps": time.monotonic() - self._began - others}
        return {f"seconds/{what}": round(seconds, 3) for what, seconds in found.items()} | {
            "redone_steps": self._redone_steps
        }

    def __str__(self) -> str:
        """The same for people."""
        found = self.scalars()
        parts = [f"{format_seconds(found[f'seconds/{what}'])} {words}" for what, words in _WORDS.items()]
        redone = f"; {self._redone_steps} steps were trained again" if self._redone_steps else ""
        return ", ".join(parts) + redone
