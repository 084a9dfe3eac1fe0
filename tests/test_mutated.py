"""Damaged DICOM and NIfTI files end in an error that names them, in being skipped, or in a result; never in a crash."""

import gzip
import struct
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian

from common.errors import CaseWarning
from common.io.dicom.read import read_dicom
from tests.dicom_enhanced_samples import enhanced_mr
from tests.dicom_samples import mr_series
from tests.helpers import oblique, save_nifti
from tests.mutations import MEMORY, Outcome, mutants, outcomes

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # it says of every damage what it is


def check(found: list[Outcome]) -> None:
    wrong = [f"{outcome.kind}: {outcome.case}: {outcome.text}" for outcome in found if not outcome.allowed]
    assert not wrong, "\n".join(wrong)


def test_damaged_files_end_in_an_error_a_reason_or_a_result(tmp_path):
    check(outcomes(mutants(tmp_path / "cases", seed=0, count=48), tmp_path / "results"))


@pytest.mark.slow
def test_many_damaged_files_end_in_an_error_a_reason_or_a_result(tmp_path):
    found = outcomes(mutants(tmp_path / "cases", seed=1, count=500), tmp_path / "results")
    check(found)
    counts = Counter(outcome.kind for outcome in found)
    print(counts)
    assert len(found) == 500 and min(counts[kind] for kind in ("error", "right", "skipped")) > 0


def test_a_hang_a_crash_and_a_lot_of_memory_are_found(tmp_path):
    def act(case: Path, results: Path) -> Outcome:
        if case.name == "slow":
            time.sleep(9)
        elif case.name == "large":
            np.zeros(2 * MEMORY, np.uint8)
        elif case.name == "bug":
            raise KeyError("bug")
        return Outcome(case, "right", "")

    names = ["slow", "good", "large", "bug"]
    found = outcomes([tmp_path / name for name in names], tmp_path, act, seconds=1)
    assert [outcome.kind for outcome in found] == ["ended", "right", "unexpected", "unexpected"]
    assert [outcome.allowed for outcome in found] == [False, True, False, False]
    with pytest.raises(AssertionError, match="slow"):
        check(found)


def forge(name: str, folder: Path) -> Path:
    """A file whose header promises far more pixels than it holds."""
    path = folder / name
    if name.endswith((".nii", ".nii.gz")):
        plain = save_nifti(folder / "plain.nii", np.zeros((12, 10, 4), np.int16), oblique((1, 1, 3))).read_bytes()
        if name.startswith("dim"):
            plain = plain[:40] + struct.pack("<8h", 3, 1200, 1000, 400, 1, 1, 1, 1) + plain[56:]
        else:
            plain = plain[:108] + struct.pack("<f", 3e9) + plain[112:]
        path.write_bytes(gzip.compress(plain) if name.endswith("gz") else plain)
        return path
    if name.startswith("frames"):
        dataset = pydicom.dcmread(enhanced_mr(folder / "mr.dcm")[0])
        dataset.NumberOfFrames = 2**31 - 1
    elif name.startswith("deflated"):
        dataset = pydicom.dcmread(mr_series(folder / "mr")[0])
        dataset.add_new(0x00280303, "OB", bytes(300 << 20))
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    elif name.startswith("plain"):
        dataset = pydicom.dcmread(mr_series(folder / "mr")[0])
        dataset.Rows = dataset.Columns = 65535
    else:
        dataset = pydicom.dcmread(get_testdata_file(name, download=False))
        dataset.Rows, dataset.Columns = (65535, 64) if "ls" in name else (40000, 40000)
    dataset.save_as(path)
    return path


FORGED = {
    "plain.dcm": "number of bytes of pixel data is less than expected",
    "frames.dcm": "must describe each of the 2147483647 frames, got 4",
    "deflated.dcm": "would become .* looks like a bomb",
    "MR_small_RLE.dcm": "would become 3200000000 .* looks like a bomb",
    "MR_small_jp2klossless.dcm": "would become 3200000000 .* looks like a bomb",
    "MR_small_jpeg_ls_lossless.dcm": r"is one of \(64, 64, 1\), the header says \(65535, 64, 1\)",
    "dim.nii": "must hold 960000352 bytes .* got at most 1312",
    "dim.nii.gz": "must hold 960000352 bytes",
    "offset.nii": "must hold 3000000960 bytes",
    "offset.nii.gz": "must hold 3000000960 bytes",
}


def test_a_forged_size_takes_no_memory_and_ends_no_process(tmp_path):
    found = outcomes([forge(name, tmp_path) for name in FORGED], tmp_path / "results")
    check(found)
    for outcome, message in zip(found, FORGED.values(), strict=True):
        assert outcome.kind == "error"
        with pytest.raises(ValueError, match=message):
            raise ValueError(outcome.text)


def test_surplus_pixels_are_told_of():
    with pytest.warns(CaseWarning, match="128 bytes of pixels more than the header tells of were left out"):
        warnings.filterwarnings("ignore", module="pydicom")
        values, _ = read_dicom(get_testdata_file("MR_small_padded.dcm", download=False))
    assert values.shape == (1, 64, 64, 1)
