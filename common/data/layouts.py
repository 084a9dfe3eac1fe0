"""Patient-wise datalists from the folders in which public data sets come, and from any folder.

Zhu, dissertation, section 5.3.1, and 4.3.1 for COVID-CT: data sets, crops and the number of patients in each split. Its
validation patients are among the test patients; here they are taken from the training patients, and no patient is in
two splits.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..io.formats import stem
from ..io.whole import write_whole
from .files import PLAIN
from .items import SPLITS, Item, check_splits


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps its images, and how the paper uses them.

    Attributes:
        find: root to items with ``patient``, ``image`` (a path, or one for each modality) and perhaps ``label``.
        sizes: patients for training (those for validation among them), validation and test; None: see :func:`datalist`.
        crop: what the paper cuts from the centre of a plane, along the two axes as they are stored, or None.
        classes: of the labels, from label 1.
        relabel, regions: see :class:`common.data.labels.LabelScheme`.
        held_out: folder below the root whose patients alone are for testing; None where the draw decides.
    """

    find: Callable[[Path], Iterator[Item]]
    sizes: tuple[int, int, int] | None
    crop: tuple[int, int] | None
    classes: tuple[str, ...]
    relabel: Mapping[int, int] = field(default_factory=dict)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    held_out: str | None = None


def _oasis(root: Path) -> Iterator[Item]:
    """``OAS1_xxxx_MRn/PROCESSED/MPRAGE/T88_111/*masked_gfc.img``, labels in ``FSL_SEG``; sessions are one patient's."""
    for session in sorted(root.rglob("OAS1_[0-9][0-9][0-9][0-9]_MR[0-9]")):
        image = _one(session, "PROCESSED/MPRAGE/T88_111/*masked_gfc.img")
        yield {
            "patient": session.name[:9],
            "image": image,
            "label": _one(session, "FSL_SEG/*masked_gfc_fseg.img"),
        }


def _brats(root: Path) -> Iterator[Item]:
    """``HGG|LGG/<patient>/<patient>_{t1ce,t1,t2,flair,seg}.nii.gz``; the modalities in that order."""
    for folder in sorted(p for grade in ("HGG", "LGG") for p in root.glob(f"{grade}/*") if p.is_dir()):
        images = [_one(folder, f"{folder.name}_{modality}.nii*") for modality in ("t1ce", "t1", "t2", "flair")]
        label = _one(folder, f"{folder.name}_seg.nii*")
        yield {"patient": f"{folder.parent.name}_{folder.name}", "image": images, "label": label}


def _acdc(root: Path) -> Iterator[Item]:
    """``patientNNN/patientNNN_frameNN.nii.gz`` that have a label ``…_gt.nii.gz``, wherever the folder lies."""
    for folder in sorted(p for p in root.rglob("patient[0-9]*") if p.is_dir()):
        frames = sorted(p for p in folder.glob(f"{folder.name}_frame*.nii*") if not stem(p).endswith("_gt"))
        if not frames:
            raise ValueError(f"{folder}: holds no {folder.name}_frame*.nii.gz; download the patient again")
        for frame in frames:
            yield {"patient": folder.name, "image": frame, "label": _one(folder, f"{stem(frame)}_gt.nii*")}


def _covid(root: Path) -> Iterator[Item]:
    """``<patient>.nii.gz`` with its label at ``mask/<patient>.nii.gz``."""
    for image in sorted(p for p in root.glob("*.nii*") if p.is_file()):
        yield {"patient": stem(image), "image": image, "label": _one(root, f"mask/{stem(image)}.nii*")}


def _covid_ct(root: Path) -> Iterator[Item]:
    """``Train|Validation/<patient>_ct.nii.gz``, labels ``<patient>_seg.nii.gz``, which ``Validation`` may lack."""
    for folder in ("Train", "Validation"):
        for image in sorted(root.glob(f"{folder}/*_ct.nii*")):
            patient = stem(image).removesuffix("_ct")
            pattern = f"{folder}/{patient}_seg.nii*"
            bare = folder == "Validation" and not list(root.glob(pattern))
            yield {"patient": patient, "image": image, **({} if bare else {"label": _one(root, pattern)})}


def _folder(root: Path) -> Iterator[Item]:
    """Every image; the patient is the first folder below the root, else ``sub-…`` in the name, else the name.

    DICOM files are left out: the slices of one patient would go for patients.
    """
    for image in sorted(p for p in root.rglob("*") if p.name.lower().endswith(PLAIN) and p.is_file()):
        parts = image.relative_to(root).parts
        named = re.match(r"sub-[A-Za-z0-9]+", parts[0])
        patient = named.group() if named else parts[0] if len(parts) > 1 else stem(image)
        yield {"patient": patient, "image": image}


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise ValueError(f"{folder}: must hold one {pattern}, got {len(found)}; complete the patient, or move it away")
    return found[0]


LAYOUTS = {
    "oasis": Layout(_oasis, (30, 3, 9), (128, 160), ("cerebrospinal fluid", "grey matter", "white matter")),
    "brats": Layout(
        _brats,
        (120, 10, 30),
        (192, 192),
        ("necrosis", "oedema", "enhancing tumour"),
        {4: 3},  # the files have no label 3
        {"whole tumour": (1, 2, 3), "tumour core": (1, 3), "enhancing tumour": (3,)},
    ),
    "acdc": Layout(_acdc, (80, 8, 20), (128, 128), ("right ventricle", "myocardium", "left ventricle")),
    "covid": Layout(_covid, (16, 2, 4), (512, 512), ("left lung", "right lung", "infection")),
    # 412 along x and 332 along y, as the chapter's 144 x 180 of OASIS are x and y: a chest is wider than deep
    "covid-ct": Layout(_covid_ct, (199, 20, 25), (412, 332), ("infection",), held_out="Validation"),
    "folder": Layout(_folder, None, None, ()),
}


def datalist(
    layout: str,
    root: str,
    out: str = "datalist.json",
    train: int | None = None,
    val: int | None = None,
    test: int | None = None,
    seed: int = 0,
) -> str:
    """Write MONAI's datalist of a data set, patients drawn by ``seed``; no patient is in two splits.

    Args:
        layout: oasis, brats, acdc, covid (the 20 scans of zenodo 3757476), covid-ct (COVID-CT-2020) or folder.
        root: of the data set; the paths in the datalist are relative to it.
        out: JSON file to write.
        train: patients for training and validation together. By default as in the paper; for a folder, all others.
        val: how many of these are for validation. For a folder a tenth, at least 1.
        test: patients for testing. For a folder a fifth, at least 1.
        seed: of the draw.

    Raises:
        ValueError: no such layout or folder, too few patients, an empty split, or a file of a patient is missing.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: must be one of {', '.join(LAYOUTS)}, got {layout}")
    if not Path(root).is_dir():
        raise ValueError(f"{root}: there is no such folder; check --root")
    scheme = LAYOUTS[layout]
    items = [_relative(item, Path(root)) for item in scheme.find(Path(root))]
    patients = sorted({item["patient"] for item in items})
    counts = _sizes(root, len(patients), scheme.sizes, (train, val, test))
    random.Random(seed).shuffle(patients)
    drawn = _draw(root, patients, _held_out(items, scheme.held_out), counts)
    content: dict[str, Any] = {"name": layout, "seed": seed, "crop": scheme.crop, "classes": scheme.classes}
    content |= {name: value for name in ("relabel", "regions") if (value := getattr(scheme, name))}
    for split in SPLITS:
        content[split] = [item for item in items if item["patient"] in drawn[split]]
    check_splits(content, out)
    text = json.dumps(content, indent=2) + "\n"
    write_whole(out, lambda path: path.write_text(text, encoding="utf-8"))
    split_sizes = ", ".join(f"{len(drawn[split])} {split}" for split in SPLITS)
    return f"{out}: {split_sizes} patients of {len(patients)}; paths are relative to {root}"


def _sizes(
    root: str, found: int, paper: tuple[int, int, int] | None, asked: tuple[int | None, int | None, int | None]
) -> tuple[int, int, int]:
    if paper is None:
        test = max(1, found // 5)
        paper = found - (asked[2] or test), max(1, found // 10), test
    train, val, test = (mine if mine is not None else theirs for mine, theirs in zip(asked, paper, strict=True))
    if not (test >= 1 and 1 <= val < train):
        raise ValueError(f"{root}: every split needs a patient, got --train {train} --val {val} --test {test}")
    if train + test > found:
        raise ValueError(
            f"{root}: {train} + {test} patients are asked for, {found} were found; pass --train and --test"
        )
    return train, val, test


def _held_out(items: Sequence[Item], folder: str | None) -> set[str]:
    """Patients with an image in this folder below the root."""
    return {item["patient"] for item in items if folder and str(item["image"]).startswith(f"{folder}/")}


def _draw(root: str, patients: Sequence[str], held_out: set[str], counts: tuple[int, int, int]) -> dict[str, list[str]]:
    """The first of ``patients`` for each split; where some are held out, they for testing, the others for the rest."""
    train, val, test = counts
    tested = [patient for patient in patients if patient in held_out or not held_out][:test]
    others = [patient for patient in patients if patient not in held_out and patient not in tested]
    if len(tested) < test or len(others) < train:
        raise ValueError(
            f"{root}: {train} patients for training and {test} of those held out are asked for, {len(others)} and "
            f"{len(tested)} were found; pass --train and --test"
        )
    return {"test": tested, "validation": others[:val], "training": others[val:train]}


def _relative(item: Item, root: Path) -> Item:
    def below(value: Any) -> Any:
        if isinstance(value, list):
            return [below(v) for v in value]
        return os.path.relpath(value, root).replace(os.sep, "/") if isinstance(value, Path) else value

    return {key: below(value) for key, value in item.items()}
