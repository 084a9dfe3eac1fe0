"""Meta-upscale beside a plain rendering of its papers: time and peak memory of MIASSR, as a table in Markdown.

``python -m benchmarks.meta_upscale``. Both have the same trunk, weights and places of the output pixels. The plain
rendering (Hu et al., CVPR 2019, section 3; Zhu, dissertation, equations 4.8 to 4.11) predicts one weight vector for
each output pixel and multiplies it by the patch around its LR pixel, all at once.
"""

import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F

from bundles.miassr.network import MIASSR

CASES = [(128, 2.5), (128, 4.0), (256, 2.5), (256, 4.0)]  # side of the LR image, scale
REPEATS, THREADS = 5, 2
# Seconds and peak megabytes of the published code, measured once on two cores of another machine, else idle; of the
# megabytes, 232 were there before the pass.
PUBLISHED = {(128, 2.5): (0.709, 1277), (128, 4.0): (1.197, 2080), (256, 2.5): (3.08, 4441), (256, 4.0): (5.41, 7472)}
PUBLISHED_START = 232


def find_neighbours(size: int, pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The LR pixel before each output pixel of an axis, edges shared, and the offset past it; both ``(pixels,)``."""
    place = 2 * size * torch.arange(pixels) + size - pixels  # times 2 · pixels, so in whole numbers
    before = torch.div(place, 2 * pixels, rounding_mode="floor")
    return before, (place - 2 * pixels * before) / (2 * pixels)


def plain(network: MIASSR, image: torch.Tensor, scale: float) -> torch.Tensor:
    """The result of ``network`` by a weight vector for each output pixel; one ``image`` ``(1, C, H, W)``."""
    features, head = network.features(image), network.upscaler
    height, width = (math.floor(scale * n + 0.5) for n in image.shape[2:])
    rows, down = find_neighbours(image.shape[2], height)
    columns, along = find_neighbours(image.shape[3], width)
    inputs = torch.stack([torch.full((height, width), 1 / scale), *torch.meshgrid(down, along, indexing="ij")], 2)
    weights = head.outer(torch.relu(head.inner(inputs.flatten(0, 1)))).unflatten(1, (-1, head.out_channels))
    patches = F.unfold(F.pad(features, [2] * 4), 3)[0].t()  # of each LR pixel, from the one before the first
    index = (rows[:, None] + 1) * (image.shape[3] + 2) + columns + 1
    result = torch.bmm(patches[index.flatten(), None], weights)  # (pixels, 1, C)
    return result[:, 0].t().unflatten(1, (height, width))[None]


def ours(network: MIASSR, image: torch.Tensor, scale: float) -> torch.Tensor:
    """The result of ``network``."""
    return network(image, scale)


FORMS: dict[str, Callable[[MIASSR, torch.Tensor, float], torch.Tensor]] = {"ours": ours, "plain": plain}


def prepare(side: int) -> tuple[MIASSR, torch.Tensor]:
    """Network and image."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    return MIASSR().eval(), torch.rand(1, 1, side, side)


@torch.no_grad()
def measure_time(side: int, scale: float, forms: list[str]) -> dict[str, float]:
    """Median seconds of each form, in turn, after one pass of each, which must agree."""
    network, image = prepare(side)
    images = [FORMS[form](network, image, scale) for form in forms]
    for other in images[1:]:
        torch.testing.assert_close(other, images[0], atol=1e-5 * float(images[0].abs().max()), rtol=0)
    del images
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(REPEATS):
        for form in forms:
            start = time.perf_counter()
            FORMS[form](network, image, scale)
            seconds[form].append(time.perf_counter() - start)
    return {form: statistics.median(values) for form, values in seconds.items()}


@torch.no_grad()
def measure_memory(side: int, scale: float, forms: list[str]) -> dict[str, float]:
    """Megabytes by which one pass of the first form raises the peak of the process, which must be a fresh one."""
    network, image = prepare(side)
    before = peak_kilobytes()
    FORMS[forms[0]](network, image, scale)
    return {forms[0]: (peak_kilobytes() - before) * 1024 / 1e6}


def peak_kilobytes() -> int:
    """Most memory that this process held; on Linux since it began to run its own program, not that of its parent."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_child(what: str, side: int, scale: float, forms: list[str]) -> dict[str, float]:
    """``measure_time`` or ``measure_memory`` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.meta_upscale", what, str(side), str(scale), *forms]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def fits(side: int, scale: float) -> bool:
    """Whether weights and patches of every output pixel, and as much again for safety, fit into the free memory."""
    values = (side * scale) ** 2 * 2 * 9 * 64
    return 2 * 4 * values < psutil.virtual_memory().available


def measure_row(side: int, scale: float) -> str:
    """One case as a row of the table."""
    forms = list(FORMS) if fits(side, scale) else ["ours"]
    seconds, memory = in_child("time", side, scale, forms), {}
    for form in forms:
        memory |= in_child("memory", side, scale, [form])
    theirs = PUBLISHED[side, scale][0], PUBLISHED[side, scale][1] - PUBLISHED_START
    cells = [f"{side} × {side}, ×{scale:g}"]
    for values, unit, published in ((seconds, "{:.2f} s", theirs[0]), (memory, "{:.0f} MB", theirs[1])):
        cells.append(unit.format(values["ours"]))
        if "plain" in values:
            cells += [unit.format(values["plain"]), f"{values['plain'] / values['ours']:.1f}"]
        else:
            cells += ["not run: too little memory", ""]
        cells.append(unit.format(published))
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    columns = ["this project", "plain", "ratio", "published code, another machine"]
    print("| LR image, scale | " + " | ".join(columns) + " | " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * 8)
    for side, scale in CASES:
        print(measure_row(side, scale), flush=True)
    print(
        f"\nMIASSR, 1 channel, trunk included; {THREADS} threads, median of {REPEATS}; memory that the process grew by."
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure = {"time": measure_time, "memory": measure_memory}[sys.argv[1]]
        print(json.dumps(measure(int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])))
    else:
        main()
