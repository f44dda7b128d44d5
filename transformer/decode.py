"""Bytes of an image file → its pixels in grey, upright, opaque, and of a bounded size."""

import io
import math
import struct
import warnings
from functools import lru_cache

import cv2
import kornia_rs.io
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageStat
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from serving.errors import SHOWN, InvalidInput, NotAnImage, ServingError, TooLarge
from transformer.structure import check_parts, check_sums
from transformer.tiff import check_tiff

Grey = npt.NDArray[np.uint8]
"""A grey picture [height, width], 0 black to 255 white."""

MAX_PIXELS = 51_200_000
"""Default limit on width × height: the largest phone photos have 50 megapixels."""
MIN_SIDE = 8
"""Shortest side, in pixels, at which a digit can be recognised."""
MAX_SIDE = 1024
"""A larger picture is reduced by a whole factor, to a longer side of at most this."""
PLAIN_BYTES = 5 * MAX_SIDE**2
"""Most bytes of a plain PNG: the pixels of the largest picture need fewer."""
MAX_RUNS = 4_000_000
"""Most pixels of a run-length encoded BMP: Pillow, in Python, takes 0.1 µs for each."""
MAX_RUN_BYTES = 2 * MAX_RUNS + 2**20
"""Largest such file: Pillow goes through runs of no pixels, too. A run has two bytes, and there is
an end to each row."""
MAX_EXIF_BYTES = 2**20
"""Larger Exif metadata are ignored: each number in them may become a Python object."""

# A file's format is told by its first bytes, not by `Image.open`: so a file that cannot be read
# is damaged if it has a signature, and no image if it has none; a phone's MPO is read as the
# JPEG it begins with; and the size limit of `Image.open`, global to the process, does not apply.
_SIGNATURES: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"\xff\xd8\xff", JpegImageFile),
    (b"RIFF", WebPImageFile),
    (b"BM", BmpImageFile),
    (b"GIF87a", GifImageFile),
    (b"GIF89a", GifImageFile),
    (b"II*\x00", TiffImageFile),
    (b"MM\x00*", TiffImageFile),
    (b"II+\x00", TiffImageFile),
    (b"MM\x00+", TiffImageFile),
)

LONGEST_SIGNATURE = 12
"""Bytes that tell a format: in WebP, those of RIFF, a length, and its own name."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""

_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_PNG_HEAD = struct.Struct(">16sII5s4x")
"""Signature and header: their constant start, width, height, ``_PNG_MODES``, checksum."""
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_PNG_MODES = {
    b"\x08\x00\x00\x00\x00": ("mono", None),
    b"\x08\x02\x00\x00\x00": ("rgb", cv2.COLOR_RGB2GRAY),
    b"\x08\x06\x00\x00\x00": ("rgba", cv2.COLOR_RGBA2GRAY),
}
"""kornia's mode and OpenCV's conversion, by the last five bytes of a PNG's header: depth, colour
type, compression, filter and interlacing."""

# Pillow warns of metadata that it skips: that cannot reach the caller, and would fill the log.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Grey:
    """The picture in ``data``, a file in PNG, JPEG, WebP, BMP, GIF or TIFF, of any mode.

    It is turned upright by its EXIF orientation. Transparent parts get a background that contrasts
    with the ink. Deep pixels (16 and 32 bits, float) are scaled, not clipped. The longer side has
    at most 1,024 pixels.

    Raises:
        NotAnImage: the bytes are in none of these formats.
        TooLarge: more pixels than ``max_pixels``, or too many parts; nothing has been decoded.
        InvalidInput: no bytes, a damaged image, one under 8×8, several frames, or pixels that are
            not finite numbers.
    """
    if not data:
        raise InvalidInput("the image is empty: 0 bytes")
    reader = _reader(data[:LONGEST_SIGNATURE])
    if reader is None:
        raise NotAnImage(
            "not an image: expected PNG, JPEG, WebP, BMP, GIF or TIFF, "
            f"got bytes that begin with {data[:SHOWN]!r}"
        )
    try:
        plain = decode_plain(data, max_pixels=max_pixels)
        if plain is not None:
            return plain
        if reader is TiffImageFile:
            check_tiff(data, max_pixels=max_pixels)
        else:
            check_parts(data, reader.format)
        image = reader(io.BytesIO(data))
        _check(image, len(data), max_pixels)
        if reader is PngImageFile:
            check_sums(data)
        return _read(image)
    except ServingError:
        raise
    except Image.DecompressionBombError as error:
        raise TooLarge(f"the image has more than the limit of {max_pixels:,} pixels") from error
    # On a damaged file Pillow's readers may raise anything: OSError, SyntaxError, ValueError,
    # KeyError, struct.error, OverflowError and more.
    except Exception as error:
        name = reader.format
        raise InvalidInput(f"the {name} image is damaged or truncated") from error


def decode_plain(data: bytes, *, max_pixels: int) -> Grey | None:
    """The picture of a plain PNG: 8 bits per channel, not interlaced, only the mandatory chunks.

    Most PNGs are plain, and this takes a fifth of the time, milliseconds at most. None for all
    other files, for large ones, which would hold up other threads, and for damaged ones: these are
    left to :func:`decode`.
    """
    if not _PNG_HEAD.size < len(data) <= PLAIN_BYTES:
        return None
    start, width, height, kind = _PNG_HEAD.unpack_from(data)
    mode, to_grey = _PNG_MODES.get(kind, (None, None))
    if mode is None or start != _PNG_START:
        return None
    at = _PNG_HEAD.size
    while data[at + 4 : at + 8] == b"IDAT":
        at += int.from_bytes(data[at : at + 4], "big") + 12
    if data[at:] != _PNG_END:
        return None
    if not MIN_SIDE <= min(width, height) <= max(width, height) <= MAX_SIDE:
        return None
    if width * height > max_pixels:
        return None
    try:
        pixels = kornia_rs.io.decode_image_png_u8(data, (height, width), mode)
    except Exception:  # Nothing more specific is raised.
        return None
    if to_grey is None:
        return np.asarray(pixels[..., 0], np.uint8)
    if mode == "rgba" and pixels[..., 3].min() < 255:
        return np.asarray(_opaque(Image.fromarray(pixels)))
    return np.asarray(cv2.cvtColor(pixels, to_grey), np.uint8)


def format_of(data: bytes) -> str:
    """The format of a file that :func:`decode` has read, in lower case, such as ``png``."""
    reader = _reader(data[:LONGEST_SIGNATURE])
    return str(reader.format).lower() if reader else "none"


@lru_cache(maxsize=32)
def _reader(start: bytes) -> type[ImageFile] | None:
    """The reader of a file with these first ``LONGEST_SIGNATURE`` bytes."""
    reader = next((reader for mark, reader in _SIGNATURES if start.startswith(mark)), None)
    if reader is WebPImageFile and start[8:] != b"WEBP":
        return None
    return reader


def _check(image: ImageFile, length: int, max_pixels: int) -> None:
    """Refuse, before decoding, what should not be decoded."""
    _check_size(image.size, max_pixels)
    if getattr(image, "is_animated", False):
        # How many they are is not said: to count them can take Pillow a minute.
        raise InvalidInput("the image has several frames; expected one")
    if image.tile and image.tile[0].codec_name == "bmp_rle":
        _check_size(image.size, min(max_pixels, MAX_RUNS))
        if length > MAX_RUN_BYTES:
            raise TooLarge(
                f"the BMP image, in run lengths, has {length:,} bytes; expected at most "
                f"{MAX_RUN_BYTES:,}; save it uncompressed, or as a PNG"
            )


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise TooLarge(
            f"the image has {width}×{height} pixels; expected at most {max_pixels:,} in all"
        )
    if min(width, height) < MIN_SIDE:
        raise InvalidInput(
            f"the image has {width}×{height} pixels; expected at least {MIN_SIDE}×{MIN_SIDE}"
        )


def _read(image: ImageFile) -> Grey:
    """The pixels of an open file."""
    if max(image.size) > MAX_SIDE:
        # A JPEG can be decoded at a half, a quarter or an eighth of its size.
        step = _step(image)
        image.draft("L", (image.width // step, image.height // step))
    if isinstance(image, TiffImageFile):
        # With this Pillow does not read all of its Exif, in which a number can take microseconds.
        image.is_animated = True
    image.load()
    grey, turn = _grey(image), _turn(image)
    return np.asarray(grey if turn is None else grey.transpose(turn))


def _grey(image: Image.Image) -> Image.Image:
    """The image in mode L, opaque, with a longer side of at most MAX_SIDE."""
    grey = image
    if image.mode[0] in "IF":
        grey = _from_deep(image)
    elif image.has_transparency_data:
        grey = _opaque(image)
    elif image.mode != "L":
        grey = image.getchannel("L") if image.mode == "LAB" else image.convert("L")
    return grey.reduce(step) if (step := _step(grey)) > 1 else grey


def _turn(image: Image.Image) -> Image.Transpose | None:
    if len(image.info.get("exif", b"")) > MAX_EXIF_BYTES:
        return None
    try:
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Any, as above. Only the metadata are damaged.
        return None


def _step(image: Image.Image) -> int:
    return -(-max(image.size) // MAX_SIDE)


def _from_deep(image: Image.Image) -> Image.Image:
    """Scale pixels of 16 or 32 bits to 8 bits; full scale is the least 2ⁿ − 1 that holds them all.

    So a mask of 0 and 1 and a picture of 12 bits keep their contrast, and a blank page with a
    little noise stays blank; stretching its range would make the noise look like ink.
    """
    pixels = np.asarray(image).astype(np.float32, copy=False)
    low, high = float(pixels.min()), float(pixels.max())
    if not math.isfinite(high - low):
        raise InvalidInput("the image has pixels that are no finite numbers")
    low = min(low, 0.0)
    full = 2.0 ** math.ceil(math.log2(high - low + 1)) - 1
    scale = 255 / max(full, 1)
    return Image.fromarray(cv2.convertScaleAbs(pixels, alpha=scale, beta=-low * scale))


def _opaque(image: Image.Image) -> Image.Image:
    """Fill the transparent parts with a grey that contrasts with the ink.

    A picture that is mostly opaque and has two tones is a page: its median is the background, and
    fills the rest. In any other the opaque part is the ink, and black or white fills the rest.
    """
    if image.mode not in ("LA", "RGBA"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if (step := _step(image)) > 1:
        image = image.reduce(step)
    alpha, grey = image.getchannel("A"), image.convert("L")
    opacity = np.asarray(alpha)
    if opacity.min() == 255:
        return grey
    peak = int(opacity.max())
    solid = ImageStat.Stat(grey, alpha.point([0] * peak + [255] * (256 - peak)))
    (low, high), tone = solid.extrema[0], solid.median[0]
    is_page = high - low > 64 and solid.count[0] > alpha.width * alpha.height / 2
    behind = tone if is_page else 255 * (tone < 128)
    return Image.composite(grey, Image.new("L", grey.size, behind), alpha)
