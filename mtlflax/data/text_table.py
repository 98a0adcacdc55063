"""Text and tables as people save them: UTF-8 or UTF-16, with a mark at the beginning or not, with , or ; or tabs."""

import codecs
import csv
from pathlib import Path

from mtlflax.files import read_bytes

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_text(path: Path) -> str:
    """Return a text file's content; bytes that are no text become \ufffd. UserError if it cannot be read."""
    data = read_bytes(path)
    encoding = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), "utf-8")
    return data.decode(encoding, errors="replace")


def read_csv(text: str) -> list[dict[str, str]]:
    """Return the rows of a table with a header, divided by whichever of , ; and tab is most frequent in the header."""
    lines = text.splitlines()
    header = lines[0] if lines else ""
    return list(csv.DictReader(lines, delimiter=max(",;\t", key=header.count)))
