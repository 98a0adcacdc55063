"""The solids that scenes consist of."""

import numpy as np

from mtlflax.data.streets.shapes import SHAPES


def test_every_shape_is_convex_and_closed():
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        if name == "ellipsoid":
            continue
        used = slice(0, shape.planes)
        normals, offsets = shape.normals[used], shape.offsets[used]
        directions = rng.standard_normal((500, 3))
        reach = np.where(directions @ normals.T > 0, offsets / np.maximum(directions @ normals.T, 1e-9), np.inf)
        assert (offsets > 0).all(), name  # the origin is inside
        surface = directions * reach.min(1)[:, None]
        assert np.abs(surface).max() < 1.16, name
        assert np.abs(surface).max(0).min() > 0.7, name
