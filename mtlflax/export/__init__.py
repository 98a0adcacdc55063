"""Export a trained network to a file that runs without this package.

    python -m mtlflax.export --workdir=DIR --out=network.stablehlo

README.md says how the files are used; `load` reads a `.stablehlo` file again.
"""

from mtlflax.export.stablehlo import Artifact, load

__all__ = ["Artifact", "load"]
