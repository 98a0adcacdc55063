"""Random augmentation of one sample, with the geometry that each unit of depth needs.

Zooming in by s leaves the camera's intrinsics as they are, so the same picture is that of a scene s
times nearer: metres are divided by s, disparities and inverse metres multiplied. A mirrored scene
has the same depths. Colour changes touch the image alone.
"""

import dataclasses
from typing import Any

import cv2
import numpy as np

from mtlflax.data import units
from mtlflax.errors import UserError

Sample = dict[str, Any]

_FIRST_CODE = np.float32(1) / np.float32(units.MAX_CODE)
_LUMA = np.array([0.299, 0.587, 0.114])
# RGB to YIQ (NTSC): turning the I-Q plane turns the hue and keeps the luma.
_YIQ = np.array([_LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """Zoom, mirror and recolour a sample at random: `augment(sample, rng) -> sample`.

    The result depends on the sample and on `rng` alone, and the number of random numbers drawn on
    nothing. The sample given is not written to.

    Attributes:
        depth: the unit of the sample's depth.
        scales: zooms to choose from, each at least 1 (MTAN's by default): a window of 1/s of the
            height and width, anywhere within the frame, is enlarged to the whole.
        flip: the probability of mirroring left and right.
        brightness: factors are drawn from 1 ± this, as are those of `contrast` and `saturation`.
        contrast: about the mean luma of the image.
        saturation: about the gray of equal luma.
        hue: the largest turn of the hue, as a fraction of the circle, at most 0.5.

    Raises:
        UserError: a value is out of its range.
        ValueError: unknown unit of depth.
    """

    depth: str = "normalised_disparity"
    scales: tuple[float, ...] = (1.0, 1.2, 1.5)
    flip: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.02

    def __post_init__(self) -> None:
        units.check(self.depth)
        if not self.scales or not all(1 <= scale < float("inf") for scale in self.scales):
            raise UserError(f"data.augment.scales is {self.scales}: give zooms of at least 1")
        limits = {"flip": 1, "brightness": 1, "contrast": 1, "saturation": 1, "hue": 0.5}
        for name, largest in limits.items():
            if not 0 <= getattr(self, name) <= largest:
                raise UserError(f"data.augment.{name} is {getattr(self, name)}: give a number from 0 to {largest}")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Returns a new sample of the same shapes and types."""
        scale = self.scales[rng.integers(len(self.scales))]
        corner = rng.random(2) * (1 - 1 / scale)
        mirrored = rng.random() < self.flip
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        changes = rng.uniform(-1, 1, 4) * strengths + (1, 1, 1, 0)
        if scale != 1:
            sample = zoom(sample, scale, corner, self.depth)
        if mirrored:
            sample = mirror(sample)
        if any(strengths):
            sample = {**sample, "image": recolor(sample["image"], *changes)}
        return sample


def zoom(sample: Sample, scale: float, corner: np.ndarray, unit: str) -> Sample:
    """Enlarges a window of a sample to its full size.

    Args:
        sample: as in `Augment`.
        scale: how much nearer all gets, at least 1, the same in x and y.
        corner: upper left corner (y, x) of the window, each from 0 to 1 − 1/scale, as a fraction of
            the height and the width.
        unit: of the depth.

    Returns:
        A sample of the same shapes: the image interpolated linearly, labels and depth taken from
        the pixel under the centre.
    """
    image = sample["image"]
    height, width = image.shape[:2]
    top, left = corner[0] * height, corner[1] * width
    # Pixel i covers [i, i + 1): its centre i + 1/2 comes from (i + 1/2) / scale + corner.
    rows = ((np.arange(height) + 0.5) / scale + top).astype(np.intp)
    columns = ((np.arange(width) + 0.5) / scale + left).astype(np.intp)
    window = np.ix_(rows, columns)
    shift = 0.5 / scale - 0.5
    back = np.array([[1 / scale, 0, left + shift], [0, 1 / scale, top + shift]])
    return {
        **sample,
        "image": cv2.warpAffine(
            image,
            back,
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        ),
        "segmentation": sample["segmentation"][window],
        "depth": scale_depth(sample["depth"][window], scale, unit),
    }


def scale_depth(depth: np.ndarray, scale: float, unit: str) -> np.ndarray:
    """Returns the depth of a scene `scale` times nearer: float32; 0 stays "no measurement".

    A normalised disparity is p / 65535 with p = 256 · disparity + 1 (see `mtlflax.data.units`),
    hence v' = s·v + (1 − s) / 65535, under which "infinitely far" (p = 1) stays what it is.
    """
    factor = np.float32(scale)
    if unit == "metres":
        return depth / factor
    if unit != "normalised_disparity":
        return depth * factor
    return np.where(depth > _FIRST_CODE, factor * depth + (1 - factor) * _FIRST_CODE, depth)


def mirror(sample: Sample) -> Sample:
    """Returns the sample with left and right exchanged."""
    return {
        **sample,
        **{key: sample[key][:, ::-1] for key in ("image", "segmentation", "depth")},
    }


def recolor(image: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float) -> np.ndarray:
    """Changes the colours of an image in one pass.

    All four are affine maps of a pixel's colour, applied in the order of the arguments; as they are
    multiplied out first, rounding and clipping happen once, at the end.

    Args:
        image: uint8 [H, W, 3], RGB.
        brightness: factor, 1 = unchanged.
        contrast: factor on the distance from the image's mean luma.
        saturation: factor on the distance from the gray of equal luma.
        hue: turn of the colours about the gray axis in YIQ, as a fraction of the circle; from red
            towards yellow where positive.

    Returns:
        uint8 [H, W, 3].
    """
    cosine, sine = np.cos(2 * np.pi * hue), np.sin(2 * np.pi * hue)
    turn = np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]])
    turn[1:] *= saturation
    linear = brightness * contrast * np.linalg.solve(_YIQ, turn @ _YIQ)
    mean_luma = brightness * (_LUMA @ cv2.mean(image)[:3])
    offset = np.full((3, 1), (1 - contrast) * mean_luma)  # gray, which the last two steps keep
    return cv2.transform(np.ascontiguousarray(image), np.hstack([linear, offset]))
