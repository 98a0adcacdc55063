"""Data sources, augmentation and the input pipeline: NumPy, OpenCV and Grain, never a JAX array."""

import os
from typing import TYPE_CHECKING, Any

from mtlflax.errors import UserError

if TYPE_CHECKING:
    from mtlflax.data.loader import Source

NAMES = ("cityscapes", "streets")
ROOT_VARIABLE = "CITYSCAPES_DATASET"  # as the official scripts have it


def resolve(name: str, root: str | os.PathLike[str] | None = None) -> tuple[str, str | None]:
    """Decides which data set a config means.

    Args:
        name: "streets", the embedded data set; or "cityscapes" (or "auto"): Cityscapes where a root
            is known, else `streets`.
        root: of Cityscapes; empty or None = the environment variable CITYSCAPES_DATASET.

    Returns:
        The name of a source and its root, for `get`.

    Raises:
        UserError: a root is given, here or in the environment, that is not Cityscapes'; or one is
            given here for `streets`, which has none.
        ValueError: unknown name.
    """
    given = os.fspath(root) if root else ""
    if name == "streets":
        if given:
            raise UserError(f"data.root is {given}, but data.name is streets: drop one of the two")
        return "streets", None
    if name not in ("auto", "cityscapes"):
        raise ValueError(f"unknown data set {name!r}: choose one of auto, {', '.join(NAMES)}")
    origin = "data.root" if given else f"the environment variable {ROOT_VARIABLE}"
    given = given or os.environ.get(ROOT_VARIABLE, "")
    if not given:
        if name == "cityscapes":
            raise UserError(f"data.name is cityscapes: give its folder as data.root or {ROOT_VARIABLE}")
        return "streets", None
    from mtlflax.data import cityscapes

    try:
        return "cityscapes", str(cityscapes.check_root(given))
    except UserError as error:
        raise UserError(f"{origin}: {error}") from error


def get(
    name: str,
    split: str,
    *,
    root: str | os.PathLike[str] | None = None,
    size: tuple[int, int] | None,
    depth: str = "normalised_disparity",
    classes: int = 19,
    **options: Any,
) -> "Source":
    """Returns a source of samples by its name.

    Args:
        name: "cityscapes" or "streets", as `resolve` gives it.
        split: "train", "val" or "test".
        root: of Cityscapes.
        size: (H, W); for Cityscapes, None = as stored.
        depth: a unit of `mtlflax.data.units`.
        classes: 19 or 7.
        **options: what else this source takes.

    Raises:
        UserError: the data set is not there or not whole, or the size is not one.
        ValueError: unknown name, unit or number of classes.
    """
    if name == "cityscapes":
        from mtlflax.data.cityscapes import Cityscapes

        if not root:
            raise UserError(f"data.root is empty: give the root of Cityscapes, or {ROOT_VARIABLE}")
        return Cityscapes(root, split, size=size, depth=depth, classes=classes, **options)
    if name == "streets":
        from mtlflax.data.streets import Streets

        if size is None:
            raise UserError("data.size is None: give (height, width) for streets")
        options.setdefault("cache", "auto")
        return Streets(split, size=size, depth=depth, classes=classes, **options)
    raise ValueError(f"unknown data set {name!r}: choose one of {', '.join(NAMES)}")
