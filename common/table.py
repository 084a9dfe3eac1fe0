"""The table of bundles in the project's README, made of their metadata, and the scores that it shows."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .info import count_parameters, find_bundles
from .io.whole import write_whole
from .metadata import read_json, write_json
from .tables import HR

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"(?<=<!-- bundles -->\n).*?(?=<!-- end of bundles -->)", re.S)
HEADINGS = "bundle", "method", "modality", "scale", "parameters", "weights", "licence of weights", "score", "zip"


@dataclass(frozen=True)
class Variant:
    """What one zip holds: a bundle, and an overlay of it that has weights of its own.

    Attributes:
        bundle, folder: of the repository.
        overlay: its name; None for none.
        weights: name of the file in ``models``; None where there is none.
        about: what the metadata say of it.
    """

    bundle: str
    folder: Path
    overlay: str | None
    weights: str | None
    about: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.bundle if self.overlay is None else f"{self.bundle}_{self.overlay.removeprefix('inference_')}"


def variants(bundles: Mapping[str, Path] | None = None) -> list[Variant]:
    """What is worth a zip: every bundle, and each of its overlays ``inference_*`` with weights of its own."""
    found = []
    for name, folder in (find_bundles() if bundles is None else bundles).items():
        listed = read_json(folder / "configs" / "metadata.json")["weights"]
        main = "model.pt" if "model.pt" in listed else None
        found.append(Variant(name, folder, None, main, listed.get("model.pt", {})))
        for path in sorted((folder / "configs").glob("inference_*.json")):
            file = next((file for file in listed if f"'{file}'" in str(read_json(path).get("ckpt_path"))), None)
            if file:
                found.append(Variant(name, folder, path.stem, file, listed[file]))
    return found


def store_scores(summary: str, bundle: str) -> str:
    """Note in a bundle's metadata what an evaluation found for its weights; the table and the zip show it.

    Args:
        summary: the ``summary.json`` of an evaluation of weights of the bundle.
        bundle: folder of the bundle.

    Returns:
        What was stored.

    Raises:
        ValueError: no evaluation, or one of other weights.
    """
    found, path = read_json(Path(summary)), Path(bundle) / "configs" / "metadata.json"
    metadata = read_json(path)
    name = next((f for f, about in metadata["weights"].items() if about["sha256"] == found.get("weights_sha256")), None)
    method = metadata["name"]
    if name is None or not {method, "dice"} & set(found):
        raise ValueError(
            f"{summary}: must be an evaluation of weights that {path} lists, got SHA-256 "
            f"{found.get('weights_sha256')}; store the weights first, evaluate them, and pass its summary.json"
        )
    scores = _super_resolution(found, method) if method in found else _segmentation(found)
    metadata["weights"][name]["scores"] = scores
    write_json(path, metadata)
    return f"{path}: scores of {name}: {scores}"


def _super_resolution(found: Mapping[str, Any], method: str) -> dict[str, Any]:
    scores = {key: found[key] for key in ("scale", "protocol", "patients", "slices")}
    for key in ("psnr", "ssim"):
        scores |= {f"{key}_bicubic": round(found["bicubic"][key]["mean"], 4)}
        scores |= {f"{key}_sr": round(found[method][key]["mean"], 4)}
    return scores


def _segmentation(found: Mapping[str, Any]) -> dict[str, Any]:
    dice = {region: round(score["mean"], 4) for region, score in found["dice"][HR].items() if score["mean"] is not None}
    return {"protocol": found["protocol"], "patients": found["patients"], "dice": dice}


def render(sizes: Mapping[str, str]) -> str:
    """The table, given the size of each zip by the name of its :class:`Variant`."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    lines += [f"| {' | '.join(_cells(variant, sizes))} |" for variant in variants()]
    return "\n".join(lines) + "\n"


def table(dist: str = "dist", readme: str = str(README)) -> str:
    """Write the table of bundles into the README.

    Args:
        dist: folder of the zips, of which the sizes are told; ``python -m common pack-all`` makes them.
        readme: the file; it has the lines ``<!-- bundles -->`` and ``<!-- end of bundles -->``.

    Raises:
        ValueError: a zip is missing, or the file has no place for the table.
    """
    sizes = {}
    for variant in variants():
        version = read_json(variant.folder / "configs" / "metadata.json")["version"]
        path = Path(dist) / f"{variant.name}_v{version}.zip"
        if not path.is_file():
            raise ValueError(f"{path}: is missing; run python -m common pack-all --out {dist}")
        sizes[variant.name] = f"{os.path.getsize(path) / 2**20:.1f} MiB"
    text, file = render(sizes), Path(readme)
    before = file.read_text(encoding="utf-8")
    if not BLOCK.search(before):
        raise ValueError(f"{file}: must have the lines <!-- bundles --> and <!-- end of bundles -->; add them")
    after = BLOCK.sub(lambda _: text, before)
    write_whole(file, lambda temporary: temporary.write_text(after, encoding="utf-8"))
    return text


def _cells(variant: Variant, sizes: Mapping[str, str]) -> list[str]:
    metadata = read_json(variant.folder / "configs" / "metadata.json")
    scale = variant.about.get("scale") or ", ".join(map(str, metadata["scale"]))
    name = f"[{variant.name}](bundles/{variant.bundle}/docs/README.md)"
    modality = metadata["network_data_format"]["inputs"]["image"].get("modality", "any")
    weights, score = variant.about.get("data", "none: train your own"), _score(variant.about)
    parameters = count_parameters(variant.folder, variant.about.get("scale"))
    return [
        *(name, metadata["description"], modality, f"×{scale}", f"{parameters:,}"),
        *(weights, variant.about.get("licence", "–"), score, sizes.get(variant.name, "–")),
    ]


def _score(about: Mapping[str, Any]) -> str:
    scores = about.get("scores")
    if not scores:
        return "–"
    if "dice" in scores:
        return "Dice " + ", ".join(f"{region} {value:.3f}" for region, value in scores["dice"].items())
    at = scores.get("scale", about.get("scale"))  # of a network of any scale, one of them
    where = "" if at == about.get("scale") else f"×{at}: "
    return f"{where}PSNR {scores['psnr_bicubic']:.2f} → {scores['psnr_sr']:.2f} dB"
