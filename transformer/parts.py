"""Which parts of the ink on a page are the digit, and whether there are more digits.

A part is a connected component. The largest one, with those near it, is the digit. Another one of
about the same height is one more digit, unless it is so near that it may be a stroke of this one.
Ruled lines and the edges of a scan are neither.
"""

from typing import NamedTuple

import cv2
import numpy as np

from transformer.decode import Grey

Box = tuple[int, int, int, int]
"""Left, top, right, bottom; right and bottom are outside."""

SPECK = 0.1
"""Parts up to this share of the largest part's size are dropped; the size is the longer side."""
MOST = 50
"""Only this many parts are looked at, the largest; only noise has more."""
ACROSS = 0.9
"""A line that is longer than this share of the page's width is a ruled one, and dropped."""
NEAR = 0.25
"""A part belongs to the digit if the gap between them is at most this share of its size …"""
OTHER = 0.6
"""… but one at least this high, as a share of the same, may be another digit, …"""
BESIDE = 0.1
"""… and belongs to it only if the gap is at most this share: strokes may break, too."""
FLAT = 4.0
"""What is more than this many times as wide as high is a line; MNIST's digits reach 2.5."""


class Digit(NamedTuple):
    """The parts that are taken for one digit."""

    ink: Grey
    """1 where the digit has ink, 0 elsewhere on the page."""
    box: Box
    multiple: bool
    """Whether there are more digits on the page."""


def size_of(box: Box) -> int:
    """The longer side."""
    return max(box[2] - box[0], box[3] - box[1])


def largest(ink: Grey) -> Digit | None:
    """The largest digit on a page, where ``ink`` is 1; None if there are only lines and edges."""

    def ruled(wide: int, high: int) -> bool:
        return wide > FLAT * high and wide > ACROSS * ink.shape[1]

    x, y, width, height = cv2.boundingRect(ink)
    # Only in the ink's box: labelling a whole page costs as much as all the rest.
    inner = ink[y : y + height, x : x + width]
    count, _ = cv2.connectedComponents(inner, ltype=cv2.CV_16U)
    if count == 2:  # One part, as in most digits: measuring it would take twice as long again.
        box = x, y, x + width, y + height
        return None if ruled(width, height) else Digit(ink, box, False)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(inner, ltype=cv2.CV_16U)
    by_area = 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA])[:MOST]
    boxes: dict[int, Box] = {
        part: (x + left, y + top, x + left + wide, y + top + high)
        for part, (left, top, wide, high, _) in zip(
            by_area.tolist(), stats[by_area].tolist(), strict=True
        )
        if not ruled(wide, high)
    }
    boxes = {part: box for part, box in boxes.items() if not _is_edge(box, ink)}
    if not boxes:
        return None
    least = SPECK * max(map(size_of, boxes.values()))
    boxes = {part: box for part, box in boxes.items() if size_of(box) > least}
    members, box = _near(boxes)
    others = (boxes[part] for part in boxes if part not in members)
    multiple = any(_height(other) >= OTHER * size_of(box) for other in others)
    if len(members) < count - 1:
        chosen = np.zeros(count, np.uint8)
        chosen[members] = 1
        ink = np.zeros_like(ink)
        ink[y : y + height, x : x + width] = chosen[labels]
    return Digit(ink, box, multiple)


def _is_edge(box: Box, page: Grey) -> bool:
    """Whether it runs along the page's left or right side, as the dark edge of a scan does.

    A one on a page that is cut off around it reaches both.
    """
    left, top, right, bottom = box
    height, width = page.shape
    return bool(bottom - top == height > FLAT * (right - left) and (left == 0) != (right == width))


def _near(boxes: dict[int, Box]) -> tuple[list[int], Box]:
    """The first part with all that belong to it, and the box around them."""
    first, *rest = boxes
    members, box, size = [first], boxes[first], size_of(boxes[first])

    def belongs(part: int) -> bool:
        reach = BESIDE if _height(boxes[part]) >= OTHER * size else NEAR
        return _gap(box, boxes[part]) <= reach * size

    while found := [part for part in rest if belongs(part)]:
        members += found
        rest = [part for part in rest if part not in found]
        lefts, tops, rights, bottoms = zip(box, *(boxes[part] for part in found), strict=True)
        box = min(lefts), min(tops), max(rights), max(bottoms)
    return members, box


def _height(box: Box) -> int:
    return box[3] - box[1]


def _gap(a: Box, b: Box) -> int:
    """Pixels between two boxes, across or down; negative where they overlap."""
    return max(max(a[0], b[0]) - min(a[2], b[2]), max(a[1], b[1]) - min(a[3], b[3]))
