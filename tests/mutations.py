"""Damaged files: seeded changes of bytes and of header values, and what becomes of reading and writing them."""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import multiprocessing
import re
import resource
import shutil
import signal
import struct
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from common.io.dicom.series import find_series
from common.io.formats import read_image, write_image
from tests.dicom_enhanced_samples import enhanced_ct, enhanced_mr
from tests.dicom_samples import cr_image, ct_series, dx_image, mr_series
from tests.helpers import oblique, save_nifti

MEMORY = 512 << 20  # for all that one file may take
SHIPPED = ("MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_jp2klossless.dcm",
           "MR_small_jpeg_ls_lossless.dcm")  # fmt: skip
TAGS = (
    "SOPClassUID", "ImageType", "SeriesInstanceUID", "SOPInstanceUID", "InstanceNumber", "SeriesNumber", "Rows",
    "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelSpacing", "ImagerPixelSpacing", "ImagePositionPatient",
    "ImageOrientationPatient", "SliceThickness", "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "SmallestImagePixelValue", "PixelAspectRatio", "PatientName",
    "SpecificCharacterSet", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SourceImageSequence",
)  # fmt: skip
VALUES = (
    b"", b"\0\0", b"\1\0", b"\3\0", b"\x11\0", b"\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"0 ", b"-1", b"abcd",
    b"nan ", b"inf ", b"1e999 ", b"1\\2 ", b"0\\0 ", b"1e-9\\1", b"0\\0\\0\\0\\0\\0 ", b"999999999 ", b"4294967296",
    b"\xfe\xfe\xff\xff", b"MONOCHROME1 ", b"1.2.3 ", b"ISO_IR 999", b"\\\\\\ ",
)  # fmt: skip


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip bytes, cut off, repeat or drop a piece, or overwrite what may be a length; mostly in the header."""
    size, kind = len(content), rng.integers(6)
    where = int(size * rng.random() ** 3)
    piece = int(rng.integers(1, 1 + min(400, max(1, size - where))))
    if kind == 0:
        changed = bytearray(content)
        for at in np.minimum(where + rng.integers(0, 64, size=rng.integers(1, 9)), size - 1):
            changed[at] ^= int(rng.integers(1, 256))
        return bytes(changed)
    if kind == 1:
        return content[:where]
    if kind == 2:
        return content[: where + piece] + content[where:]
    if kind == 3:
        return content[:where] + content[where + piece :]
    value = rng.choice(np.array([0, 1, 0x7F, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF], np.uint32))
    packed = struct.pack("<I", value) if kind == 4 else struct.pack("<H", value & 0xFFFF)
    return content[:where] + packed + content[where + len(packed) :]


def change_tag(content: bytes, rng: np.random.Generator) -> bytes:
    """A DICOM file with a tag of another value, or without it; one of its first functional groups too."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    holder, tag = dataset, Tag(str(rng.choice(TAGS)))
    if "SharedFunctionalGroupsSequence" in dataset and rng.random() < 0.5:
        groups = dataset[str(rng.choice(["Shared", "PerFrame"])) + "FunctionalGroupsSequence"].value[0]
        holder = groups[rng.choice([element.tag for element in groups])].value[0]
        tag = Tag(int(rng.choice([element.tag for element in holder])))
    if rng.random() < 0.2:
        if tag in holder:
            del holder[tag]
    else:
        vr = holder[tag].VR if tag in holder else pydicom.datadict.dictionary_VR(tag).split(" ")[0]
        value = VALUES[rng.integers(len(VALUES))]
        holder[tag] = RawDataElement(tag, vr, len(value), value, 0, dataset.original_encoding[0], True)
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset)
    return out.getvalue()


def change_field(content: bytes, rng: np.random.Generator) -> bytes:
    """A NIfTI file with another value in one field of its header."""
    packed = content[:2] == b"\x1f\x8b"
    plain = bytearray(gzip.decompress(content) if packed else content)
    dtype = nib.nifti1.header_dtype
    name = str(rng.choice([*dtype.names, *["dim"] * 8]))
    kind, start = dtype.fields[name][:2]
    size = kind.base.itemsize
    at = start + size * int(rng.integers(kind.itemsize // size))
    if kind.base.kind == "f":
        value = struct.pack("<f", rng.choice([0, -1, np.nan, np.inf, 1e30, 1e-30]))
    elif kind.base.kind == "i":
        value = int(rng.choice([0, 1, -1, 2, 512, 2047, 32767])).to_bytes(size, "little", signed=True)
    else:
        value = rng.bytes(size)
    plain[at : at + size] = value[:size]
    return gzip.compress(bytes(plain), mtime=0) if packed else bytes(plain)


def dicom_sources(folder: Path) -> list[Path]:
    made = [mr_series(folder / "mr")[0], ct_series(folder / "ct")[0]]
    made += cr_image(folder / "cr.dcm") + dx_image(folder / "dx.dcm")
    made += enhanced_mr(folder / "emr.dcm", slopes=(1, 0.5, 0.25, 0.125)) + enhanced_ct(folder / "ect.dcm")
    return made + [Path(str(get_testdata_file(name, download=False))) for name in SHIPPED]


def nifti_sources(folder: Path) -> list[Path]:
    values = np.random.default_rng(0).integers(0, 200, size=(12, 10, 4)).astype(np.int16)
    affine = oblique((0.9, 0.9, 3.0))
    return [save_nifti(folder / name, values, affine, slope=0.5) for name in ("a.nii", "b.nii.gz")]


def mutants(folder: Path, seed: int, count: int) -> list[Path]:
    """``count`` damaged cases: files, one in three of them NIfTI, and folders with a series one file of which is."""
    folder.mkdir()
    dicom, nifti = dicom_sources(folder / "dicom"), nifti_sources(folder)
    series = sorted((folder / "dicom" / "mr").iterdir())
    out = []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        change, sources = (change_field, nifti) if number % 3 == 2 else (change_tag, dicom)
        source = sources[rng.integers(len(sources))]
        case = folder / f"{number:04d}-{source.name}"
        path = case
        if source == series[0]:
            case = case.with_suffix("")
            case.mkdir()
            for file in series[1:]:
                shutil.copy(file, case)
            path = case / source.name
        path.write_bytes((change if rng.random() < 0.5 else damage)(source.read_bytes(), rng))
        out.append(case)
    return out


@dataclass(frozen=True)
class Outcome:
    """What became of a case: "right", "skipped", "error" that names it, and what was said; all else is a failure."""

    case: Path
    kind: str
    text: str

    @property
    def allowed(self) -> bool:
        return self.kind in ("right", "skipped", "error") and not re.search("MemoryError|nable to allocate", self.text)


def read_and_write(case: Path, results: Path) -> Outcome:
    """Read a file or a folder, and write what was read as it is and magnified."""
    sources: Sequence[Any] = [case]
    if not case.name.endswith((".nii", ".nii.gz")):
        sources, skipped = find_series(sorted(case.iterdir()) if case.is_dir() else [case])
        if not sources:
            return Outcome(case, "skipped" if skipped[0].reason else "silent", skipped[0].reason)
    try:
        for number, source in enumerate(sources):
            values, record = read_image(source)
            write_image(values.copy(), record, results / f"{number}-x1{record.suffix}")
            write_image(values.repeat(2, axis=1).repeat(2, axis=2), record, results / f"{number}-x2{record.suffix}")
    except (ValueError, OSError) as error:
        return Outcome(case, "error" if str(case) in str(error) else "unnamed", str(error))
    return Outcome(case, "right", "")


Act = Callable[[Path, Path], Outcome]


def outcomes(cases: Sequence[Path], results: Path, act: Act = read_and_write, seconds: int = 20) -> list[Outcome]:
    """What becomes of each case, in a process that has ``MEMORY`` beyond what this one has, and some ``seconds``."""
    done: list[Outcome] = []
    fork = multiprocessing.get_context("fork")
    while len(done) < len(cases):
        receive, send = fork.Pipe(duplex=False)
        process = fork.Process(target=_work, args=(cases[len(done) :], results, act, seconds, send))
        process.start()
        send.close()
        with contextlib.suppress(EOFError):
            while True:
                done.append(receive.recv())
        process.join()
        if process.exitcode:
            done.append(Outcome(cases[len(done)], "ended", f"the process, code {process.exitcode}"))
    return done


def _work(cases: Sequence[Path], results: Path, act: Act, seconds: int, send: Any) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    limit = psutil.Process().memory_info().vms + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for case in cases:
        signal.alarm(seconds)  # nothing handles it: it ends the process
        try:
            outcome = act(case, results / case.name)
        except Exception as error:
            outcome = Outcome(case, "unexpected", repr(error))
        send.send(outcome)
    signal.alarm(0)
