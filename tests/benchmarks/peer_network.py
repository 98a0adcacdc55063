"""The U-Net of `configs/dwa.py` in PyTorch: torchvision's encoder and a gated decoder per task."""

import torch
from helpers.torch_encoders import import_torchvision
from torch import nn
from torch.nn import functional as F

STRIDES = (16, 8, 4, 2, 1)
WIDTHS = (256, 128, 64, 32, 16)


class ResNet(nn.Module):
    """The five maps of torchvision's ResNet."""

    def __init__(self, name: str) -> None:
        super().__init__()
        net = getattr(import_torchvision().models, name)(weights=None)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu)
        self.stages = nn.ModuleList([nn.Sequential(net.maxpool, net.layer1), net.layer2, net.layer3, net.layer4])
        widths = (256, 512, 1024, 2048) if name in ("resnet50", "resnet101") else (64, 128, 256, 512)
        self.channels, self.raw = (64, *widths), (False,) * 5

    def forward(self, x):
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps


class DenseNet(nn.Module):
    """The five maps of torchvision's DenseNet-121: those of the first three blocks before normalization."""

    def __init__(self, name: str) -> None:
        super().__init__()
        net = getattr(import_torchvision().models, name)(weights=None).features
        self.stem = nn.Sequential(net.conv0, net.norm0, net.relu0)
        self.blocks = nn.ModuleList([net.denseblock1, net.denseblock2, net.denseblock3, net.denseblock4])
        self.before = nn.ModuleList([net.pool0, net.transition1, net.transition2, net.transition3])
        self.norm5 = net.norm5
        self.channels, self.raw = (64, 256, 512, 1024, 1024), (False, True, True, True, True)

    def forward(self, x):
        maps = [self.stem(x)]
        for before, block in zip(self.before, self.blocks, strict=True):
            maps.append(block(before(maps[-1])))
        maps[-1] = self.norm5(maps[-1])
        return maps


def enlarged(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class Gate(nn.Module):
    """The attention gate of Oktay et al. 2018 on a skip connection."""

    def __init__(self, channels: int, gating: int) -> None:
        super().__init__()
        inner = channels // 2
        self.skip, self.gating = nn.Conv2d(channels, inner, 1, bias=False), nn.Conv2d(gating, inner, 1)
        self.psi = nn.Conv2d(inner, 1, 1)

    def forward(self, skip, gating):
        x = self.skip(F.avg_pool2d(skip, 2))
        q = self.psi(F.relu(x + enlarged(self.gating(gating), x.shape[2:])))
        return skip * enlarged(torch.sigmoid(q), skip.shape[2:])


class Stage(nn.Module):
    """From a map to twice its size: narrowed, enlarged, the skip connection beside it, two 3×3 convolutions."""

    def __init__(self, given: int, skip: int, width: int) -> None:
        super().__init__()
        self.up = nn.Conv2d(given, width, 1, bias=False)
        self.gate = Gate(skip, given) if skip else None
        layers: list[nn.Module] = []
        for channels in (width + skip, width):
            conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.convs = nn.Sequential(*layers)

    def forward(self, x, skip):
        if skip is None:
            return self.convs(enlarged(self.up(x), [2 * n for n in x.shape[2:]]))
        up = enlarged(self.up(x), skip.shape[2:])
        return self.convs(torch.cat([up, self.gate(skip, x)], 1))


class Decoder(nn.Module):
    """From the five maps to the logits of a task."""

    def __init__(self, channels: int, maps: tuple[int, ...], raw: tuple[bool, ...]) -> None:
        super().__init__()
        norms = [nn.Sequential(nn.BatchNorm2d(n), nn.ReLU()) for n in maps]
        self.activate = nn.ModuleList([norm if r else nn.Identity() for norm, r in zip(norms, raw, strict=True)])
        given = (maps[-1], *WIDTHS[:-1])
        skips = (*maps[-2::-1], 0)
        self.stages = nn.ModuleList([Stage(*each) for each in zip(given, skips, WIDTHS, strict=True)])
        self.head = nn.Conv2d(WIDTHS[-1], channels, 1)

    def forward(self, maps):
        *skips, x = [activate(each) for activate, each in zip(self.activate, maps, strict=True)]
        for stage, skip in zip(self.stages, [*reversed(skips), None], strict=True):
            x = stage(x, skip)
        return self.head(x)


class PeerUNet(nn.Module):
    """The network: images [B, 3, H, W] to task → logits [B, channels, H, W]."""

    def __init__(self, backbone: str, heads: dict[str, int]) -> None:
        super().__init__()
        self.encoder = (DenseNet if backbone.startswith("densenet") else ResNet)(backbone)
        maps, raw = self.encoder.channels, self.encoder.raw
        self.decoders = nn.ModuleDict({task: Decoder(n, maps, raw) for task, n in heads.items()})

    def forward(self, images):
        maps = self.encoder(images)
        return {task: decoder(maps) for task, decoder in self.decoders.items()}


def losses(outputs, batch):
    """Cross-entropy without the ignored pixels, and L1 over measured ones, each a mean."""
    segmentation = F.cross_entropy(outputs["segmentation"].float(), batch["segmentation"], ignore_index=255)
    measured = batch["depth"] > 0
    error = (outputs["depth"].float() - batch["depth"]).abs() * measured
    return [segmentation, error.sum() / measured.sum().clamp(min=1)]
