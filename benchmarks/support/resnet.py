"""A ResNet-20 at the shapes of CIFAR-10 on synthetic data: a vision model that needs no download."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from landscape.problem import Problem

CLASSES, SIZE = 10, 32
STEPS, BATCH = 60, 64


class _Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut that has no parameters."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.stride, self.more = stride, width - channels

    def forward(self, image: Tensor) -> Tensor:
        inner = self.first_norm(self.first(image)).relu()
        shortcut = image[:, :, :: self.stride, :: self.stride]
        shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, 0, self.more))
        return (self.second_norm(self.second(inner)) + shortcut).relu()


def resnet20() -> nn.Sequential:
    """The network of He, Zhang, Ren and Sun (2016), section 4.2, with n = 3: 0.27 million parameters."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    channels = 16
    for width in (16, 32, 64):
        for place in range(3):
            layers.append(_Block(channels, width, 2 if place == 0 and width > 16 else 1))
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (n, 3, 32, 32) and their classes (n,): each image is the smooth pattern of its class plus unit noise."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(CLASSES, 3, 8, 8, generator=generator)
    patterns = nn.functional.interpolate(patterns, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    generator.manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return patterns[labels] + torch.randn(count, 3, SIZE, SIZE, generator=generator), labels


def trained_resnet(samples: int, steps: int = STEPS) -> Problem:
    """The network after some steps of stochastic gradient descent, on ``samples`` new images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = resnet20()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    for step in range(steps):
        inputs, targets = images(BATCH, 1 + step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return Problem(model, nn.CrossEntropyLoss(), [images(samples, 10**6)])
