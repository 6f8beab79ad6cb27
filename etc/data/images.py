"""Reading and writing frames and label maps; every message names the file."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from etc.errors import UserError
from utils.files import regular_file, write_bytes

_PNG_HEAD, PNG_END = b"\x89PNG", b"IEND\xaeB`\x82"
_PNG_HEADER = 33  # bytes of signature and IHDR, the first chunk
_ORIGIN_KEYWORD, _LONGEST_ORIGIN = b"etc origin\0", 1 << 20
_ROTATED = ("JPEG", "PNG", "WEBP")  # formats whose EXIF orientation OpenCV heeds
_JPEG_HEAD, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
# What Pillow raises for damaged files: one flipped bit may lead to any of them.
_UNDECODABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
MAX_PIXELS = 2**27  # 16384 x 8192; a file of a few kilobytes may state billions, which would fill the memory
_BITS_PER_SAMPLE = 0x0102  # TIFF tag, one number per channel
_ORIENTATION = 0x0112  # EXIF tag; 5..8 are rotated by 90 degrees


def read_image(path: str | Path) -> np.ndarray:
    """A frame as RGB, uint8 ``[H, W, 3]``.

    Raises:
        UserError: the file is missing, truncated, damaged (which only PNG files show), or no image.
    """
    image = _decode(path, cv2.IMREAD_COLOR)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def sample_range(path: str | Path) -> tuple[str, float] | None:
    """The kind of numbers (``"u"`` or ``"f"``) and the largest value of a frame of more than 8 bits per channel.

    ``None`` for 8 bits, of which only the head of the file is read, and for files that cannot be read.
    """
    try:
        with Image.open(regular_file(path)) as image:
            deep = image.mode[0] in "IF"
            if image.format == "PNG":  # Pillow gives RGB of 16 bits as 8
                with open(path, "rb") as stream:
                    deep = stream.read(25)[24] == 16
            elif image.format == "TIFF":
                deep = max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) > 8  # type: ignore[attr-defined]
        if not deep:
            return None
        pixels = _decode(path, cv2.IMREAD_UNCHANGED)
    except (*_UNDECODABLE, UserError):  # the reader of the frames says why
        return None
    return None if pixels.dtype == np.uint8 else (pixels.dtype.kind, float(pixels.max()))


def read_png16(path: str | Path) -> np.ndarray:
    """A PNG of three 16-bit channels in file order, uint16 ``[H, W, 3]``.

    Raises:
        UserError: the file is missing, truncated, damaged, no image, or has other channels.
    """
    image = _decode(path, cv2.IMREAD_UNCHANGED)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint16:
        raise UserError(f"{path}: expected three 16-bit channels, this file has {image.dtype} {image.shape}")
    return image[:, :, ::-1]


def write_png(path: str | Path, image: np.ndarray, compression: int = 3, *, origin: str | None = None) -> None:
    """Write uint8 or uint16 ``[H, W]`` or RGB ``[H, W, 3]`` as PNG, atomically.

    ``origin`` is stored in the file as text, for :mod:`etc.data.origin`.

    Raises:
        ValueError: another dtype or shape; OpenCV would cut the values to 8 bits in silence.
    """
    if image.dtype not in (np.uint8, np.uint16) or image.size == 0 or image.shape[2:] not in ((), (3,)):
        raise ValueError(f"cannot write {image.dtype} {image.shape} as PNG to {path}")
    bgr = image[:, :, ::-1] if image.ndim == 3 else image
    _, encoded = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, compression])
    data = encoded.tobytes()
    if origin is not None:
        data = data[:_PNG_HEADER] + origin_chunk(origin) + data[_PNG_HEADER:]
    write_bytes(path, data)


def origin_chunk(origin: str) -> bytes:
    """The chunk of a PNG that holds ``origin``; :func:`read_png_origin` expects it behind the first one."""
    return png_chunk(b"tEXt", _ORIGIN_KEYWORD + origin.encode("ascii"))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG: length, type, content, checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def read_png_origin(path: str | Path) -> str | None:
    """The text that :func:`write_png` stored as ``origin``; ``None`` where the file is missing or holds none."""
    try:
        with open(regular_file(path), "rb") as stream:
            stream.seek(_PNG_HEADER)
            head = stream.read(8)
            length = int.from_bytes(head[:4], "big")
            if head[4:] != b"tEXt" or length > _LONGEST_ORIGIN:
                return None
            content, crc = stream.read(length), stream.read(4)
    except OSError:
        return None
    if not content.startswith(_ORIGIN_KEYWORD) or crc != struct.pack(">I", zlib.crc32(b"tEXt" + content)):
        return None
    return content[len(_ORIGIN_KEYWORD) :].decode("ascii", errors="replace")


def _decode(path: str | Path, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(_read(path), np.uint8), flags)
    except cv2.error:  # sides beyond its limits
        image = None
    if image is None:
        raise UserError(f"{path} is not an image that can be decoded")
    return image


def _read(path: str | Path) -> bytes:
    """The bytes of an image file, checked to be complete and, where the format has checksums, undamaged."""
    try:
        data = regular_file(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not data:
        raise UserError(f"{path} is empty: not an image that can be decoded")
    if _is_truncated(data):
        raise UserError(f"{path} is truncated")
    damaged = _damaged_chunk(data) if data.startswith(_PNG_HEAD) else None
    if damaged is not None:
        raise UserError(f"{path} is damaged and cannot be decoded: {damaged}")
    _check_pixels(path, data)
    return data


def _check_pixels(path: str | Path, data: bytes) -> None:
    """Refuse an image without pixels or with more than ``MAX_PIXELS``, before any is decoded."""
    if data.startswith(_PNG_HEAD):
        width, height = struct.unpack(">II", data[16:24])
    else:
        try:
            with Image.open(BytesIO(data)) as image:
                width, height = image.size
        except Image.DecompressionBombError as error:
            raise _too_large(path) from error
        except _UNDECODABLE:  # the decoder has the last word
            return
    if width < 1 or height < 1:
        raise UserError(f"{path} is {width}x{height}: it is not an image that can be decoded")
    if width * height > MAX_PIXELS:
        raise _too_large(path, f" ({width}x{height})")


def _too_large(path: str | Path, size: str = "") -> UserError:
    return UserError(f"{path} states more pixels than can be read{size}: expected {MAX_PIXELS} at most")


def _is_truncated(data: bytes) -> bool:
    """Whether a PNG or JPEG file lacks its end: of such a file, OpenCV decodes what is there and fills the rest."""
    if data.startswith(_PNG_HEAD):
        return data.rfind(PNG_END) < 0
    if not data.startswith(_JPEG_HEAD):
        return False
    # Only an end marker after the pixels counts: a thumbnail in the header has one of its own.
    segment = len(_JPEG_HEAD)
    while data[segment : segment + 2] != _JPEG_SCAN:
        fill = data[segment + 1 : segment + 2] == b"\xff"
        length = int.from_bytes(data[segment + 2 : segment + 4], "big")
        if not fill and length < 2:
            return True
        segment += 1 if fill else 2 + length
    return data.find(_JPEG_END, segment) < 0


def _damaged_chunk(data: bytes) -> str | None:
    """What is wrong with the first damaged chunk of a PNG file; ``None``: all are as they were written.

    Pillow stops decoding at the last pixel, before some of the checksums, and OpenCV skips those of some chunks. JPEG
    and the other formats have no checksums.
    """
    view, start = memoryview(data), 8
    # A chunk is its length, its type, the content, and the CRC-32 of type and content.
    while start + 12 <= len(view):
        end = start + 8 + int.from_bytes(view[start : start + 4], "big")
        kind = data[start + 4 : start + 8]
        if end + 4 > len(view):
            return "a chunk reaches beyond the end of the file"
        if zlib.crc32(view[start + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            name = kind.decode("ascii") if kind.isalpha() else kind.hex()  # a damaged name may end the line
            return f"the checksum of its chunk {name} is wrong"
        if kind == b"IEND":
            return None
        start = end + 4
    return "it has no end"


def image_size(path: Path) -> tuple[int, int]:
    """Width and height, from the head of the file.

    Raises:
        UserError: the file is missing or no image.
    """
    try:
        with Image.open(regular_file(path)) as image:
            width, height = image.size
            # Reading a frame rotates it by its EXIF orientation; label maps have none.
            # Of a PNG without it in its head, getexif would decode all pixels.
            known = image.format in ("JPEG", "MPO") or (image.format in _ROTATED and "exif" in image.info)
            turned = known and image.getexif().get(_ORIENTATION, 1) >= 5
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except _UNDECODABLE as error:
        reason = getattr(error, "strerror", None) or "not an image that can be decoded"
        raise UserError(f"cannot read {path}: {reason}") from error
    return (height, width) if turned else (width, height)


class LabelFile(NamedTuple):
    """The pixels of a label map or prediction as they are in the file, and its palette if it has one.

    Attributes:
        path: the file.
        pixels: uint8 or uint16 ``[H, W]``, or uint8 ``[H, W, 3 or 4]``.
        palette: RGB, uint8 ``[256, 3]``.
        depth: bits per gray value in the file, where they are fewer than 8.
    """

    path: Path
    pixels: np.ndarray
    palette: np.ndarray | None
    depth: int = 8

    def ids(self) -> np.ndarray:
        """Gray values or palette indices, uint8 or uint16 ``[H, W]``.

        Raises:
            UserError: the channels differ, so the file is a colour picture.
        """
        if self.pixels.ndim == 2:
            return self.pixels
        red = self.pixels[:, :, 0]
        if (self.pixels[:, :, 1:3] != red[:, :, None]).any():
            raise UserError(
                f"{self.path} is a picture in colours: expected a label map with one channel of ids (labels in the "
                "colours of DATA.colors_path are read with DATA.label_map color, those with the class in the red "
                "channel with DATA.label_map red, predictions in colours with TEST.prediction_ids color)"
            )
        return red

    def red(self) -> np.ndarray:
        """The red channel, uint8 ``[H, W]``; of a gray or palette file its values, uint8 or uint16."""
        return self.pixels if self.pixels.ndim == 2 else self.pixels[:, :, 0]

    def colors(self) -> np.ndarray:
        """RGB, uint8 ``[H, W, 3]``.

        Raises:
            UserError: the file is gray.
        """
        if self.palette is not None:
            return self.palette[self.pixels]
        if self.pixels.ndim == 2:
            raise UserError(
                f"{self.path} is gray: TEST.prediction_ids color needs colours (train or label: ids), and so does "
                "DATA.label_map color"
            )
        return self.pixels[:, :, :3]


def read_label(path: str | Path) -> np.ndarray:
    """A label map as it is in the file: gray values or palette indices, uint8 or uint16 ``[H, W]``.

    Raises:
        UserError: the file is missing, truncated, damaged, no image, or a colour picture.
    """
    return read_label_file(path).ids()


def check_lossless(path: str | Path) -> None:
    """Raise UserError for a label map that is a JPEG."""
    if Path(path).suffix.lower() in (".jpg", ".jpeg"):
        raise UserError(f"{path} is a JPEG, which changes the ids along every edge: label maps must be PNG")


def read_label_file(path: str | Path) -> LabelFile:
    """A label map or prediction with its palette, for :meth:`LabelFile.ids` or :meth:`LabelFile.colors`.

    Raises:
        UserError: the file is missing, truncated, damaged, no image, or holds other numbers than 8 or 16 bits.
    """
    path, palette = Path(path), None
    data = _read(path)
    if data.startswith(_PNG_HEAD) and data[24] == 16 and data[25] in (2, 6):  # Pillow keeps the upper 8 bits alone
        raise UserError(f"{path} has colours of 16 bits: expected one channel of ids, or colours of 8 bits")
    try:
        with Image.open(BytesIO(data)) as image:
            if image.mode == "P":
                palette = np.zeros((256, 3), np.uint8)
                colors = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
                palette[: len(colors)] = colors
            pixels = np.array(image)
    except _UNDECODABLE as error:
        raise UserError(f"{path} is not an image that can be decoded") from error
    if image.mode == "LA":
        pixels = pixels[:, :, 0]
    depth = _gray_depth(data)
    if depth in (2, 4) and pixels.dtype == np.uint8:
        pixels = pixels // (255 // (2**depth - 1))  # Pillow scales them to 0..255, unlike those of 1 bit
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8)
    elif pixels.dtype != np.uint8:
        if pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 65535:
            raise UserError(f"{path}: expected whole numbers of 8 or 16 bits, this file has {pixels.dtype}")
        pixels = pixels.astype(np.uint16)
    return LabelFile(path, pixels, palette, depth)


def _gray_depth(data: bytes) -> int:
    """Bits per value of a gray PNG of fewer than 8; otherwise 8."""
    gray = data.startswith(_PNG_HEAD) and data[25] == 0
    return min(8, data[24]) if gray else 8
