"""Sources and results in a DICOM archive: a real Orthanc that listens on the loopback interface alone."""

import io
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from common.errors import CaseWarning
from common.io.dicom.derived import Provenance
from common.io.dicom.read import read_dicom
from common.io.dicom.series import find_series
from common.io.dicom.write import write_dicom
from common.transforms.degradation import resample
from tests.dicom_samples import mr_series
from tests.helpers import data_dir
from tests.orthanc import Archive, orthanc_server


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Archive]:
    with orthanc_server(tmp_path) as archive:
        yield archive


def write_x2(files: list[Path], folder: Path) -> list[Path]:
    """The bicubic x2 of a series, as one series of files."""
    (series,), _ = find_series(files)
    values, case = read_dicom(series)
    planes = torch.from_numpy(values).permute(0, 3, 1, 2)
    planes = resample(planes, (2 * planes.shape[2], 2 * planes.shape[3]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaseWarning)  # private tags are left out
        write_dicom(planes.permute(0, 2, 3, 1).contiguous().numpy(), case, folder, Provenance("rdst", "0.1.0", "x2"))
    return sorted(folder.iterdir())


def by_instance(contents: list[bytes]) -> dict[str, np.ndarray]:
    datasets = [pydicom.dcmread(io.BytesIO(content)) for content in contents]
    return {str(dataset.SOPInstanceUID): dataset.pixel_array for dataset in datasets}


def check_archived(archive: Archive, sources: list[Path], results: list[Path]) -> None:
    """Store both series, and find one study with two series of the same pixels."""
    kept = [path.read_bytes() for path in (*sources, *results)]
    for content in kept:
        assert json.loads(archive.ask("instances", content))["Status"] == "Success"
    instances = archive.read("instances")
    assert [len(archive.read(level)) for level in ("patients", "studies", "series")] == [1, 1, 2]
    assert len(instances) == len(kept) == 2 * len(sources)
    rows = sorted(int(archive.read(f"series/{one}/shared-tags?simplify")["Rows"]) for one in archive.read("series"))
    assert rows[1] == 2 * rows[0]
    given, fetched = by_instance(kept), by_instance([archive.ask(f"instances/{one}/file") for one in instances])
    assert given.keys() == fetched.keys() and all(np.array_equal(given[uid], fetched[uid]) for uid in given)
    print(f"Orthanc {archive.read('system')['Version']}: {len(instances)} instances, 2 series, 1 study, 1 patient")


def test_a_derived_series_lies_beside_its_source_in_one_study(orthanc, tmp_path):
    sources = mr_series(tmp_path / "source")
    check_archived(orthanc, sources, write_x2(sources, tmp_path / "result"))


def test_a_real_derived_series_lies_beside_its_source_in_one_study(orthanc, tmp_path):
    sources = sorted((data_dir() / "dicom" / "mr_sag_MIT").glob("*.dcm"))
    check_archived(orthanc, sources, write_x2(sources, tmp_path / "result"))


def test_a_series_that_is_stored_twice_is_found(orthanc, tmp_path):
    sources = mr_series(tmp_path / "source")
    with pytest.raises(AssertionError):
        check_archived(orthanc, sources, sources)
