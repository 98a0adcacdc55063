"""torchvision's encoders, for what compares with them: tests, goldens, benchmarks. It needs torch and torchvision."""

from typing import Any

import numpy as np
import torch


def import_torchvision() -> Any:
    """Return torchvision, also where its compiled operators do not fit the torch there is."""
    schema = "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    library = None
    try:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for prefix in ("", "q"):
            library.define(prefix + schema)
    except RuntimeError:  # they exist: nothing to do
        pass
    import torchvision

    torchvision.kept = library  # as long as it lives, the operators do
    return torchvision


TAPS = {
    "resnet": ("relu", "layer1", "layer2", "layer3", "layer4"),
    "densenet": (
        "features.relu0",
        "features.denseblock1",
        "features.denseblock2",
        "features.denseblock3",
        "features.norm5",
    ),
}


def torch_features(network: Any, backbone: str, images: np.ndarray, train: bool) -> list[Any]:
    taps = TAPS["resnet" if backbone.startswith("resnet") else "densenet"]
    features: dict[str, Any] = {}
    for name in taps:

        def keep(module: Any, inputs: Any, output: Any, name: str = name) -> None:
            # A copy, before the in-place ReLUs behind it; the stem's is the module's first call.
            features.setdefault(name, output.detach().clone())

        network.get_submodule(name).register_forward_hook(keep)
    network.train(train)
    with torch.no_grad():
        network(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    return [features[name].numpy().transpose(0, 2, 3, 1) for name in taps]


def state_of(network: Any) -> dict[str, np.ndarray]:
    return {key: value.numpy().copy() for key, value in network.state_dict().items()}
