"""Print the sizes of the encoders and the networks, and the cost of a forward pass.

    python -m mtlflax.models
    python -m mtlflax.models --backbone=densenet121 --size=256x512 --classes=7
    python -m mtlflax.models --network=my_networks:MyNet --backbone=my_encoders:my_encoder

Encoders are counted with the ImageNet classifier that they lack here, for comparison with the published counts;
networks with heads for segmentation and depth. Multiply-adds are those of convolutions and matrix products. DenseNets
need fewer here than published, since their transitions average the map before the 1×1 convolution.
"""

import argparse
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

from mtlflax import command_line
from mtlflax.errors import UserError
from mtlflax.models import ENCODERS, MODELS, encoder, get
from mtlflax.models.cost import count

# Parameters and 10⁹ multiply-adds at 224×224, from the metadata of torchvision 0.28's weights.
PUBLISHED = {
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.801),
    "densenet121": (7_978_856, 2.834),
    "densenet169": (14_149_480, 3.36),
}
CLASSES = 1000


def count_classifier(backbone: str, size: tuple[int, int]) -> tuple[int, int]:
    """Return the same for an encoder followed by the classifier of ImageNet's 1000 classes."""
    model = encoder(backbone)
    parameters, operations = count(model, size)
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    width = jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0][-1].shape[-1]
    return parameters + (width + 1) * CLASSES, operations + width * CLASSES


def encoder_table() -> str:
    """Return the table of the encoders with classifiers, beside the published figures."""
    lines = ["| encoder, with classifier | parameters | published | 10⁹ multiply-adds at 224×224 | published |"]
    lines.append("|---|---|---|---|---|")
    for name in ENCODERS:
        parameters, operations = count_classifier(name, (224, 224))
        known, cost = PUBLISHED[name]
        lines.append(f"| `{name}` | {parameters:,} | {known:,} | {operations / 1e9:.3f} | {cost:.3f} |")
    return "\n".join(lines)


def network_table(backbone: str, size: tuple[int, int], classes: int, names: Iterable[str] = MODELS) -> str:
    """Return the table of networks with their default options and heads for segmentation and depth."""
    heads = {"segmentation": classes, "depth": 1}
    lines = [f"| network, {backbone} | 10⁶ parameters | 10⁹ multiply-adds at {size[0]}×{size[1]} |", "|---|---|---|"]
    single = get("unet", backbone=backbone, heads={"segmentation": classes}, attention="none")
    networks = {"`unet`, segmentation alone, without attention": single}
    networks |= {f"`{name}`": get(name, backbone=backbone, heads=heads) for name in names}
    for name, model in networks.items():
        parameters, operations = count(model, size)
        lines.append(f"| {name} | {parameters / 1e6:.2f} | {operations / 1e9:.2f} |")
    return "\n".join(lines)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: give HEIGHTxWIDTH, as in 128x256")
    return int(height), int(width)


def main(argv: Sequence[str]) -> None:
    """Print both tables."""
    parser = command_line.Parser("mtlflax.models", __doc__ or "")
    parser.add_argument("--network", action="append", help="your own, package.module:name, to add to the table")
    parser.add_argument(
        "--backbone", default="resnet50", help=f"{', '.join(ENCODERS)} (default: resnet50), or package.module:name"
    )
    parser.add_argument("--size", type=_size, default=(128, 256), help="HEIGHTxWIDTH of the networks' images (128x256)")
    parser.add_argument("--classes", type=int, default=19, help="that the networks segment (default: 19)")
    options = parser.parse_args(argv)
    try:
        table = network_table(options.backbone, options.size, options.classes, [*MODELS, *(options.network or ())])
    except UserError as error:
        parser.error(str(error))
    except ValueError as error:  # e.g. an encoder that has no map left at that size
        parser.error(f"no network can be built with these options: {error}")
    print(encoder_table(), table, sep="\n\n")


if __name__ == "__main__":
    command_line.run(main)
