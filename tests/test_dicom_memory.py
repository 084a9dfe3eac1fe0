"""How much memory the largest projections take from reading to the written result."""

import os
import subprocess
import sys

import numpy as np
import pydicom
import pytest

from tests.dicom_samples import dx_image
from tests.helpers import ROOT

MB, LIMIT = 1 << 20, 3 << 30
RUN = """
import resource, sys
from pathlib import Path
from tests.helpers import run_inference
network = {"_target_": "tests.helpers.Convolve", "scale": 2}
run_inference(Path(sys.argv[1]), Path(sys.argv[2]), scale=2, network_def=network, memory_mb=2200)
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_a_projection_of_4096_pixels_squared_takes_less_than_3_gib(tmp_path):
    pixels = (np.arange(4096)[:, None] * 7 + np.arange(4096) * 11)[None] % 65536
    (path,) = dx_image(tmp_path / "dx.dcm", pixels)
    run = subprocess.run(
        [sys.executable, "-c", RUN, str(path), str(tmp_path / "out")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    peak = int(run.stdout.split()[-1])
    print(f"peak memory {peak / MB:.0f} MB")
    (result,) = (tmp_path / "out").glob("*.dcm")
    head = pydicom.dcmread(result, stop_before_pixels=True)
    assert (head.Rows, head.Columns, [float(v) for v in head.ImagerPixelSpacing]) == (8192, 8192, [0.07, 0.07])
    assert peak < LIMIT
