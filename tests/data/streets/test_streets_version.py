"""The version of the renderer, which decides whether a cache is still valid."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from mtlflax.data.streets import Streets, cache, frame, version


def test_a_changed_renderer_does_not_use_an_old_cache(tmp_path: Path):
    """A copy of the package with one constant changed renders its own frames and keeps the old cache."""
    script = "from mtlflax.data.streets import Streets; import sys\n"
    script += "print(Streets('val', size=(32, 64), length=1, cache=sys.argv[1])[0]['image'].sum())"
    package = Path(cache.mtlflax.__file__).parent
    shutil.copytree(package, tmp_path / "copy" / "mtlflax", ignore=shutil.ignore_patterns("__pycache__"))
    kept = tmp_path / "cache"

    def rendered_by_the_copy() -> int:
        command = [sys.executable, "-P", "-c", script, str(kept)]
        path = {"PYTHONPATH": str(tmp_path / "copy")}
        return int(subprocess.run(command, env=os.environ | path, check=True, capture_output=True, text=True).stdout)

    before = Streets("val", size=(32, 64), length=1, cache=str(kept))[0]["image"].sum()
    assert len(list(kept.iterdir())) == 1
    changed = tmp_path / "copy" / "mtlflax" / "data" / "streets" / "light.py"
    source = changed.read_text()
    exposure = "exposure = rng.uniform(0.85, 1.3)"
    assert exposure in source
    changed.write_text(source.replace(exposure, "exposure = rng.uniform(0.4, 0.5)"))
    assert rendered_by_the_copy() < 0.8 * before
    assert len(list(kept.iterdir())) == 2
    changed.write_text(source)
    assert rendered_by_the_copy() == before
    assert len(list(kept.iterdir())) == 2  # the same source elsewhere uses the first cache


def test_every_module_that_the_renderer_imports_is_part_of_its_version():
    script = "import sys, mtlflax.data.streets.worker\n"
    script += "print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'mtlflax'), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    package = Path(cache.mtlflax.__file__).parent
    irrelevant = {package / name for name in ("__init__.py", "errors.py", "files.py", "registry.py")}
    of_data = ("__init__", "source", "field_json", "holdout", "full_truth", "samples", "balance", "mixture", "wrapped")
    irrelevant |= {package / "data" / f"{name}.py" for name in of_data}
    loaded = set(map(Path, done.stdout.split("\n")[:-1]))
    assert Path(frame.__file__) in loaded
    assert loaded - irrelevant <= set(version.sources())
