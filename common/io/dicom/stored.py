"""Stored pixels of a plane to the values that a network takes, and back: bits, rescale, padding, what is bright."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from ...errors import CaseWarning
from .codestream import check_frames

BASELINE_JPEG = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"  # Pillow reads those of 8 bits
EXTENDED_JPEG = "1.2.840.10008.1.2.4.51"  # 12 bits of it are decoded wrongly by some plug-ins


@dataclass(frozen=True)
class Scale:
    """How the stored values of a plane become real ones: slope · stored + intercept, or a look-up table.

    Attributes:
        slope, intercept: of the rescale; 1 and 0 with a table.
        table: real values of the stored ones from ``first`` on, strictly monotone; None without one.
        first: stored value of the table's first entry.
        low, high: least and largest stored value that the bits can hold.
        padding: least and largest stored value that mark pixels as no part of the image; None without padding.
        inverted: whether low real values are displayed bright (MONOCHROME1).
    """

    slope: float
    intercept: float
    table: np.ndarray | None
    first: int
    low: int
    high: int
    padding: tuple[int, int] | None
    inverted: bool

    @property
    def sign(self) -> float:
        """-1 where low stored values are displayed bright."""
        falling = self.slope < 0 if self.table is None else bool(self.table[-1] < self.table[0])
        return -1.0 if falling != self.inverted else 1.0

    def to_real(self, stored: np.ndarray) -> np.ndarray:
        if self.table is None:
            return stored * self.slope + self.intercept
        return self.table[np.clip(stored.astype(np.int64) - self.first, 0, len(self.table) - 1)]

    def to_stored(self, real: np.ndarray) -> np.ndarray:
        """The nearest stored values, as float64, not yet clipped."""
        if self.table is None:
            return np.rint((real - self.intercept) / self.slope)
        order = slice(None, None, 1 if self.table[-1] > self.table[0] else -1)
        rising = self.table[order]
        after = np.clip(np.searchsorted(rising, real), 1, len(rising) - 1)
        nearest = after - (real - rising[after - 1] < rising[after] - real)
        index = nearest if order.step == 1 else len(rising) - 1 - nearest
        return (index + self.first).astype(np.float64)

    def is_padding(self, stored: np.ndarray) -> np.ndarray:
        if self.padding is None:
            return np.zeros(stored.shape, bool)
        return (stored >= self.padding[0]) & (stored <= self.padding[1])


def scale_of(path: str | os.PathLike[str], dataset: Dataset, tags: Dataset) -> Scale:
    """The :class:`Scale` of a plane.

    Args:
        path: for messages.
        dataset: of the file.
        tags: those of the frame; ``dataset`` itself where the file has one.

    Raises:
        ValueError: a slope of 0, a table that cannot be inverted, or bits that are not supported.
    """
    low, high = _limits(path, dataset)
    table, first = _table(path, tags, dataset)
    slope, intercept = _rescale(path, tags)
    return Scale(
        slope=1.0 if table is not None else slope,
        intercept=0.0 if table is not None else intercept,
        table=table,
        first=first,
        low=max(low, first) if table is not None else low,
        high=min(high, first + len(table) - 1) if table is not None else high,
        padding=_padding(dataset),
        inverted=dataset.PhotometricInterpretation == "MONOCHROME1",
    )


def _rescale(path: str | os.PathLike[str], tags: Dataset) -> tuple[float, float]:
    slope, intercept = tags.get("RescaleSlope"), tags.get("RescaleIntercept")
    numbers = (
        1.0 if slope in (None, "") else float(slope),
        0.0 if intercept in (None, "") else float(intercept),
    )
    if numbers[0] == 0 or not np.isfinite(numbers).all():
        raise ValueError(f"{path}: RescaleSlope must be a number other than 0, got {slope}; mend the header")
    return numbers


def _limits(path: str | os.PathLike[str], dataset: Dataset) -> tuple[int, int]:
    allocated, stored = int(dataset.get("BitsAllocated") or 0), int(dataset.get("BitsStored") or 0)
    top = int(dataset.get("HighBit", stored - 1))
    if allocated not in (8, 16) or not 1 <= stored <= allocated or top != stored - 1:
        raise ValueError(
            f"{path}: pixels must be of 8 or 16 bits, from bit 0 on, got BitsAllocated {allocated}, "
            f"BitsStored {stored}, HighBit {top}; convert the file"
        )
    if int(dataset.get("PixelRepresentation") or 0):
        return -(1 << (stored - 1)), (1 << (stored - 1)) - 1
    return 0, (1 << stored) - 1


def _table(path: str | os.PathLike[str], tags: Dataset, dataset: Dataset) -> tuple[np.ndarray | None, int]:
    sequence = tags.get("ModalityLUTSequence")
    if not sequence:
        return None, 0
    item = sequence[0]
    count, first, bits = (int(v) for v in item.LUTDescriptor)
    values = item.LUTData
    if isinstance(values, bytes):
        values = np.frombuffer(values, np.uint8 if bits == 8 and len(values) <= (count or 65536) + 1 else np.uint16)
    if int(dataset.get("PixelRepresentation") or 0) and first > 32767:
        first -= 65536
    table = np.asarray(values, np.float64)[: count or 65536]
    steps = np.diff(table)
    if len(table) < 2 or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(
            f"{path}: the modality look-up table must rise or fall all the way, so that it can be undone; "
            "export the image without it"
        )
    return table, first


def _padding(dataset: Dataset) -> tuple[int, int] | None:
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = int(value), int(value if limit is None else limit)
    if int(dataset.get("PixelRepresentation") or 0):  # the pair is signed where the pixels are, whatever its VR says
        ends = (ends[0] - 65536 if ends[0] > 32767 else ends[0]), (ends[1] - 65536 if ends[1] > 32767 else ends[1])
    return min(ends), max(ends)


def decode(path: str | os.PathLike[str], dataset: Dataset) -> np.ndarray:
    """Stored values of all frames, ``(frames, rows, columns)``, as integers that the stored bits can hold.

    Raises:
        ValueError: no pixels, fewer than the header says, or a compression that no installed plug-in decodes.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax == EXTENDED_JPEG and int(dataset.get("BitsAllocated") or 8) > 8:
        raise ValueError(f"{path}: JPEG Extended of 12 bits is not read; export the image uncompressed or lossless")
    _limits(path, dataset)
    if "PixelData" not in dataset:
        raise ValueError(f"{path}: the file holds no pixels, or is cut off before them; copy or export it again")
    if hasattr(dataset, "pixel_array_options"):  # pydicom 3 would cut off, in silence, what exceeds the stored bits
        plugin = "pillow" if syntax in BASELINE_JPEG else ""  # GDCM can end the process over a damaged one
        dataset.pixel_array_options(correct_unused_bits=False, decoding_plugin=plugin)
    try:
        check_frames(dataset)
        pixels = np.asarray(dataset.pixel_array)
    except Exception as error:  # plug-ins raise whatever they stumble on
        text = " ".join(str(error).split())[:300]
        missing = isinstance(error, (RuntimeError, NotImplementedError)) and syntax is not None and syntax.is_compressed
        remedy = (
            "if its compression is the reason, pip install 'medical-sr-bundles[dicom]' or export it uncompressed"
            if missing
            else "copy or export the file again"
        )
        raise ValueError(f"{path}: the pixels cannot be decoded ({text}); {remedy}") from error
    frames, rows, columns = int(dataset.get("NumberOfFrames") or 1), int(dataset.Rows), int(dataset.Columns)
    if pixels.size != frames * rows * columns:
        raise ValueError(
            f"{path}: must hold {frames} x {rows} x {columns} pixels, got {pixels.shape}; copy or export it again"
        )
    surplus = 0 if syntax.is_encapsulated else len(dataset.PixelData) - pixels.nbytes
    if surplus > 1:  # one fills up to an even length; scanners that fill up to a block are known too
        text = f"{surplus} bytes of pixels more than the header tells of were left out; look at rows and columns"
        warnings.warn(text, CaseWarning, stacklevel=2)
    return _stored_bits(path, dataset, pixels.reshape(frames, rows, columns))


def _stored_bits(path: str | os.PathLike[str], dataset: Dataset, pixels: np.ndarray) -> np.ndarray:
    """Pixels without what lies above their stored bits: a sign that was not extended, or an overlay."""
    low, high = _limits(path, dataset)
    if low <= pixels.min() and pixels.max() <= high:
        return pixels
    bits = int(dataset.BitsStored)
    if low == 0 and not any((0x6000 + 2 * i, 0x0102) in dataset for i in range(16)):
        raise ValueError(
            f"{path}: pixels must be {low} to {high} as BitsStored says, got {pixels.min()} to {pixels.max()}; "
            "mend the header"
        )
    kept = pixels.astype(np.int32) & ((1 << bits) - 1)
    return kept - ((kept > high) << bits).astype(np.int32) if low < 0 else kept
