"""Random changes of digits, a batch at a time, on the batch's device."""

import math

import torch
from torch.nn import functional

TURN = math.radians(15)
"""The largest rotation either way, in radians."""
SLANT = 0.3
"""The largest shear either way."""
ZOOM = 0.2
"""The largest change of width and of height, as a share."""
SHIFT = 2.5
"""The largest shift along each axis, in pixels."""
BEND = 1.2
"""Largest standard deviation of the elastic distortion at the nodes of its grid, in pixels."""
NODES = 6
"""Nodes of that grid along each side."""
NOISE = 0.15
"""The largest standard deviation of the noise; 1 is the range from paper to ink."""


def augment(images: torch.Tensor) -> torch.Tensor:
    """Change each digit at random: float32 [N, 1, 28, 28] from 0 to 1, likewise returned.

    First rotation, slant, scale, shift and elastic distortion (Simard et al. 2003), in one
    resampling. Then thicker or thinner strokes, blur, contrast and noise, each for a part of the
    batch. Uses torch's global generator of the device.
    """
    images = _bent(images)
    images = _stroked(images)
    images = torch.where(_some(images, 0.2), functional.avg_pool2d(images, 3, 1, 1), images)
    images = torch.where(_some(images, 0.3), images ** _between(images, 0.6, 1.6), images)
    noise = torch.randn_like(images) * _between(images, 0, NOISE)
    return torch.where(_some(images, 0.2), images + noise, images).clamp(0, 1)


def _between(images: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Return a random number for each image: float32 [N, 1, 1, 1]."""
    return torch.empty(len(images), 1, 1, 1, device=images.device).uniform_(low, high)


def _some(images: torch.Tensor, share: float) -> torch.Tensor:
    """Return bool [N, 1, 1, 1], true for about ``share`` of the images."""
    return _between(images, 0, 1) < share


def _bent(images: torch.Tensor) -> torch.Tensor:
    count, _, side, _ = images.shape
    strength = torch.rand(count, device=images.device)

    def spread(most: float) -> torch.Tensor:
        return torch.empty(count, device=images.device).uniform_(-most, most) * strength

    turn, slant = spread(TURN), spread(SLANT)
    wide, high = 1 + spread(ZOOM), 1 + spread(ZOOM)
    pixel = 2 / side  # in the units of the grid, which runs from -1 to 1
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
    """Make a third of the strokes thicker and a third thinner, by up to a pixel on each side."""
    thick = functional.max_pool2d(images, 3, 1, 1)
    thin = -functional.max_pool2d(-images, 3, 1, 1)
    which, much = _between(images, 0, 3), _between(images, 0, 0.8)
    target = torch.where(which < 1, thick, torch.where(which < 2, thin, images))
    return torch.lerp(images, target, much)
