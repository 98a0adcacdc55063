"""Cityscapes' own evaluator of pixel-level labels, run in this process."""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

EVALUATOR = "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling"


def evaluate(dataset: Path, results: Path, out: Path) -> dict[str, Any]:
    """Return what it writes to `out` about the results for a data set's `gtFine/val`, which holds instance ids too."""
    pytest.importorskip("cityscapesscripts")
    places = {"DATASET": dataset, "RESULTS": results, "EXPORT_DIR": out}
    with (
        mock.patch.dict(os.environ, {f"CITYSCAPES_{name}": str(path) for name, path in places.items()}),
        mock.patch.object(sys, "argv", [EVALUATOR]),
        mock.patch.object(np, "in1d", np.isin, create=True),  # cityscapesScripts 2.3 calls what NumPy 2.4 lacks
        mock.patch.dict(sys.modules),
    ):
        sys.modules.pop(EVALUATOR, None)  # it reads the variables when it is imported
        importlib.import_module(EVALUATOR).main()
    return json.loads((out / "resultPixelLevelSemanticLabeling.json").read_text())
