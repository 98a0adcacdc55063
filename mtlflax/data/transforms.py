"""Random augmentation of one sample, with the geometry that each kind of field needs.

Zooming in by s leaves the camera's intrinsics as they are, so the same picture is that of a scene s times nearer:
metres are divided by s, disparities and inverse metres multiplied. A mirrored scene has the same depths. Color changes
touch images alone.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import cv2
import numpy as np

from mtlflax.data.source import Depth, Field, Image, Map, Sample
from mtlflax.errors import UserError

LUMA = np.array([0.299, 0.587, 0.114])
# RGB to YIQ (NTSC): turning the I-Q plane turns the hue and keeps the luma.
YIQ = np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


@dataclasses.dataclass(frozen=True)
class Drawn(Field):
    """What `Augment` draws for a frame: float32 [8].

    The zoom, its corner (y, x) as in `zoom`, whether it is mirrored (1 or 0), and the brightness, contrast, saturation
    and hue as in `recolor`.
    """

    kind: ClassVar[str] = "drawn"
    spatial: ClassVar[bool] = False

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """[8]."""
        del size
        return (8,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """Zoom, mirror and recolor a sample at random: `augment(sample, rng) -> sample`.

    The result depends on the sample and on `rng` alone, and always takes the same number of random numbers.

    Attributes:
        fields: those of the samples; entries that are not among them stay as they are.
        scales: zooms to choose from, each at least 1 (by default MTAN's): a window of 1/s of the height and width,
            anywhere within the frame, is enlarged to the whole.
        flip: the probability of exchanging left and right.
        brightness: factors are drawn from 1 ± this, as are those of `contrast` and `saturation`.
        contrast: about the mean luma of the image.
        saturation: about the gray of equal luma.
        hue: the largest turn of the hue, as a fraction of the circle, at most 0.5.
        device: leave the work to the train step (`mtlflax.training.augment`): what is drawn is put into the sample as
            `augment` (see `Drawn`), and nothing else is done to it.

    A value out of its range is a UserError.
    """

    fields: Mapping[str, Field]
    scales: tuple[float, ...] = (1.0, 1.2, 1.5)
    flip: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.02
    device: bool = False

    def __post_init__(self) -> None:
        if not self.scales or not all(1 <= scale < float("inf") for scale in self.scales):
            raise UserError(f"data.augment.scales is {self.scales}: zooms must be at least 1")
        limits = {"flip": 1, "brightness": 1, "contrast": 1, "saturation": 1, "hue": 0.5}
        for name, largest in limits.items():
            if not 0 <= getattr(self, name) <= largest:
                raise UserError(f"data.augment.{name} is {getattr(self, name)}: must be in 0 to {largest}")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return a new sample of the same shapes and dtypes."""
        scale = self.scales[rng.integers(len(self.scales))]
        corner = rng.random(2) * (1 - 1 / scale)
        mirrored = rng.random() < self.flip
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        changes = rng.uniform(-1, 1, 4) * strengths + (1, 1, 1, 0)
        if self.device:
            return {**sample, "augment": np.array([scale, *corner, mirrored, *changes], np.float32)}
        changed = dict(sample)
        for name, field in self.fields.items():
            if name not in sample or not field.spatial:
                continue
            values = sample[name]
            if scale != 1:
                values = zoom(values, field, scale, corner)
            if mirrored:
                values = mirror(values, field)
            if any(strengths) and isinstance(field, Image):
                values = recolor(values, *changes)
            changed[name] = values
        return changed


def zoom(values: np.ndarray, field: Field, scale: float, corner: np.ndarray) -> np.ndarray:
    """Enlarge a window of a frame's array [H, W, ...] to the full size; shape and dtype stay.

    Images are interpolated linearly, all else takes the pixel under the center, and depths become those of a scene
    `scale` times nearer, at least 1. `corner` is the window's upper left one, (y, x) from 0 to 1 − 1/scale, as a
    fraction of the height and width.
    """
    height, width = values.shape[:2]
    top, left = corner[0] * height, corner[1] * width
    if isinstance(field, Image):
        shift = 0.5 / scale - 0.5
        back = np.array([[1 / scale, 0, left + shift], [0, 1 / scale, top + shift]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(values, back, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    # Pixel i covers [i, i + 1): its center i + 1/2 comes from (i + 1/2) / scale + corner.
    rows = ((np.arange(height) + 0.5) / scale + top).astype(np.intp)
    columns = ((np.arange(width) + 0.5) / scale + left).astype(np.intp)
    window = values.take(rows, axis=0).take(columns, axis=1)  # four times as fast as by one index of both
    return field.zoom(window, scale) if isinstance(field, Depth) else window


def mirror(values: np.ndarray, field: Field) -> np.ndarray:
    """Exchange left and right; the channels of a `Map` change sign as it declares, where they are known."""
    mirrored = _flip(values)
    if isinstance(field, Map) and field.mirror:
        signed = mirrored * np.asarray(field.mirror, values.dtype)
        unknown = np.all(mirrored == values.dtype.type(field.unknown), axis=-1, keepdims=True)
        return np.where(unknown, mirrored, signed)
    return mirrored


def _flip(values: np.ndarray) -> np.ndarray:
    """Left and right exchanged; by OpenCV where it knows the dtype, since a batch of views is stacked slowly."""
    if values.dtype.char in "bBhHifd" and (values.ndim == 2 or values.shape[2] <= 4):
        return cv2.flip(np.ascontiguousarray(values), 1).reshape(values.shape)
    return values[:, ::-1]


def recolor(image: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float) -> np.ndarray:
    """Change the colors of an image, uint8 [H, W, 3] RGB, in one pass.

    Brightness is a factor, contrast one on the distance from the image's mean luma, saturation one on that from the
    gray of equal luma. Hue is a turn about the gray axis in YIQ, as a fraction of the circle, from red towards yellow.
    All four are affine maps of a pixel's color: they are multiplied out first, so that rounding and clipping happen
    once.
    """
    cosine, sine = np.cos(2 * np.pi * hue), np.sin(2 * np.pi * hue)
    turn = np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]])
    turn[1:] *= saturation
    linear = brightness * contrast * np.linalg.solve(YIQ, turn @ YIQ)
    mean_luma = brightness * (LUMA @ cv2.mean(image)[:3])
    offset = np.full((3, 1), (1 - contrast) * mean_luma)  # gray, which the last two steps keep
    return cv2.transform(np.ascontiguousarray(image), np.hstack([linear, offset]))
