"""Changes digits at random, a batch at a time and on the batch's own device."""

import math

import torch
from torch.nn import functional

TURN = math.radians(15)
SLANT = 0.3
ZOOM = 0.2
"""Each side is drawn at up to so much more or less."""
SHIFT = 2.5
"""Pixels, in each direction."""
BEND = 1.2
"""Pixels: standard deviation of the elastic distortion at the nodes of its grid …"""
NODES = 6
"""… which has so many a side."""
NOISE = 0.15
"""Of the range from paper to ink: the largest standard deviation."""


def augment(images: torch.Tensor) -> torch.Tensor:
    """Float32 [N, 1, 28, 28] from 0 to 1 → the same digits, each changed in its own way.

    Rotation, slant, scale, shift and elastic distortion (Simard et al. 2003) in one resampling,
    then, each for a part of the batch, thicker or thinner strokes, blur, contrast and noise.
    Draws from torch's global generator of the device.
    """
    images = _bent(images)
    images = _stroked(images)
    images = torch.where(_some(images, 0.2), functional.avg_pool2d(images, 3, 1, 1), images)
    images = torch.where(_some(images, 0.3), images ** _between(images, 0.6, 1.6), images)
    noise = torch.randn_like(images) * _between(images, 0, NOISE)
    return torch.where(_some(images, 0.2), images + noise, images).clamp(0, 1)


def _between(images: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """A number for each image, [N, 1, 1, 1]."""
    return torch.empty(len(images), 1, 1, 1, device=images.device).uniform_(low, high)


def _some(images: torch.Tensor, share: float) -> torch.Tensor:
    """True for about a share of the images, [N, 1, 1, 1]."""
    return _between(images, 0, 1) < share


def _bent(images: torch.Tensor) -> torch.Tensor:
    count, _, side, _ = images.shape
    strength = torch.rand(count, device=images.device)

    def spread(most: float) -> torch.Tensor:
        return torch.empty(count, device=images.device).uniform_(-most, most) * strength

    turn, slant = spread(TURN), spread(SLANT)
    wide, high = 1 + spread(ZOOM), 1 + spread(ZOOM)
    pixel = 2 / side  # of a grid that runs from -1 to 1
    rows = [
        [wide * turn.cos(), slant - turn.sin(), spread(SHIFT * pixel)],
        [turn.sin(), high * turn.cos(), spread(SHIFT * pixel)],
    ]
    affine = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    nodes = torch.randn(count, 2, NODES, NODES, device=images.device)
    field = functional.interpolate(
        nodes * (BEND * pixel) * strength.view(-1, 1, 1, 1),
        size=(side, side),
        mode="bicubic",
        align_corners=False,
    )
    return functional.grid_sample(
        images, grid + field.permute(0, 2, 3, 1), mode="bilinear", align_corners=False
    )


def _stroked(images: torch.Tensor) -> torch.Tensor:
    """A third of the images thicker, a third thinner, each by up to a pixel all around."""
    thick = functional.max_pool2d(images, 3, 1, 1)
    thin = -functional.max_pool2d(-images, 3, 1, 1)
    which, much = _between(images, 0, 3), _between(images, 0, 0.8)
    target = torch.where(which < 1, thick, torch.where(which < 2, thin, images))
    return torch.lerp(images, target, much)
