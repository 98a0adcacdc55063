"""A bucket in memory behind gs://: fsspec's own file system, called as etils.epath calls Google's."""

from pathlib import Path

import fsspec
import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem


def put(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str = "bucket") -> str:
    """Serve a copy of a folder as gs://NAME for as long as the test runs; return that address."""

    class Bucket(MemoryFileSystem):
        protocol = ("gcs", "gs")
        store: dict = {}  # noqa: RUF012 (as MemoryFileSystem keeps its files)
        pseudo_dirs: list = [""]  # noqa: RUF012
        cachable = False

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(str(path).removeprefix("gs:/").removeprefix("gcs:/"))

    fsspec.register_implementation("gcs", Bucket, clobber=True)
    monkeypatch.setattr(backend.fsspec_backend, "fs", lambda path: files)
    files = Bucket()
    for path in folder.rglob("*"):
        if path.is_file():
            files.pipe(f"gs://{name}/{path.relative_to(folder)}", path.read_bytes())
    return f"gs://{name}"
