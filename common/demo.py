"""The demonstration: a real brain volume, super-resolved by a bundle through MONAI's runner, and drawn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from nibabel.testing import data_path

from .info import find_bundles
from .journal import read_lines
from .picture import draw_case


def demo(bundle: str = "rdst", output_dir: str = "demo_output") -> str:
    """Super-resolve the first volume of nibabel's ``example4d.nii.gz`` and draw input, bicubic, SR and residual.

    Args:
        bundle: whose inference config and weights are used.
        output_dir: where the NIfTI, its JSON line and the picture go. A volume that is there already is only drawn.
    """
    bundles = find_bundles()
    if bundle not in bundles:
        raise ValueError(f"bundle: must be one of {', '.join(bundles)}, got {bundle}")
    source = Path(str(data_path)) / "example4d.nii.gz"
    config = bundles[bundle] / "configs" / "inference.json"
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--config_file", str(config)]
    command += ["--dataset_dir", str(source), "--output_dir", output_dir, "--volume", "0", "--resume", "true"]
    print(" ".join(command), flush=True)
    if subprocess.run(command, check=False).returncode:
        raise ValueError(f"{bundle}: the run above failed; its last line says why")
    line = [line for line in read_lines(Path(output_dir)) if "error" not in line and line["input"] == str(source)][-1]
    picture = Path(output_dir) / f"{Path(line['output']).name.removesuffix('.nii.gz')}.png"
    draw_case(str(source), line["output"], picture, volume=0, method=bundle.upper())
    before, after = (" x ".join(f"{v:g}" for v in line[key]) for key in ("spacing", "sr_spacing"))
    return "\n".join(
        [
            "",
            f"SR volume                  {Path(line['output']).resolve()}",
            f"picture                    {picture.resolve()}",
            f"spacing                    {before} -> {after} {line['units']}",
            f"data-consistency residual  {line['consistency_residual']:.2e} of the input's range",
            f"time                       {line['seconds']:.1f} s on {line['device']}",
            f"peak memory                {line['peak_memory_mb']:.0f} MB",
        ]
    )
