"""The folder, with `compiler.py`, is all that another project must copy."""

import shutil
import subprocess
import sys
from pathlib import Path

import mtlflax

# An editable install would find the missing files in the package, too.
CODE = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path[:] = [sys.argv[1], *(path for path in sys.path if path.rstrip("/") != sys.argv[2])]
import jax.numpy as jnp
from mtlflax import weighting
for name in weighting.names():
    method = weighting.get(name, num_tasks=2)
    gradients = {"kernel": jnp.arange(1.0, 7.0).reshape(2, 3)}
    state = method.init({"kernel": jnp.zeros(3)})
    combined, _ = method.update(gradients, state, losses=jnp.array([1.0, 2.0]), losses_after=jnp.array([0.5, 1.0]))
    assert combined["kernel"].shape == (3,)
others = [name for name in sys.modules if name.startswith(("mtlflax.", "flax"))]
assert all(name.startswith(("mtlflax.weighting", "mtlflax.compiler")) for name in others), others
print(len(weighting.names()))
"""


def test_every_method_works_without_the_rest_of_the_package(tmp_path):
    package = Path(mtlflax.__file__).parent
    shutil.copytree(package / "weighting", tmp_path / "mtlflax/weighting")
    shutil.copy(package / "compiler.py", tmp_path / "mtlflax")
    command = [sys.executable, "-c", CODE, str(tmp_path), str(package.parent)]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert said.returncode == 0, said.stderr
    assert int(said.stdout) >= 33
