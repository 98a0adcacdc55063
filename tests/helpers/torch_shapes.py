"""What an encoder needs of torchvision's state dict."""

from mtlflax.models.pretrained import conversion


def torch_shapes(backbone: str) -> dict[str, tuple[int, ...]]:
    """Name → shape."""
    return {name: shape for name, (_, shape) in conversion.layout(backbone).items()}
