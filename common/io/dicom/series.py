"""Files of any number of patients and series, brought into volumes: grouped, put in order, and checked for gaps."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..archive import SUFFIX as ARCHIVE
from ..archive import list_members, open_file, sha256
from .headers import MULTI_FRAME, PROJECTIONS, SLICES, NotForUs, Plane, read_planes, series_of

SUFFIXES = (".dcm", ".dicom", ".ima")
MAGIC_AT, MAGIC = 128, b"DICM"
EVEN = 0.01  # largest deviation of a slice from its place, as a fraction of the distance between slices
SAME = 0.05  # planes nearer than this fraction of the typical distance are at one place
APART = "put the files of one volume into a folder of their own and pass that folder"
TURNED = 1e-3  # orientations that differ by less, in any component, are one


@dataclass(frozen=True)
class Series:
    """One volume of a DICOM series, or one projection: an item of a worklist.

    Attributes:
        source: virtual path that gives the result its place and name: the file, or the folder and a name.
        planes: in order along the normal; those of a refused series in any order.
        suffix: of the result's name: ``".dcm"`` where it is a file, ``""`` where it is a folder of files.
        problem: why it cannot be super-resolved; None where it can.
    """

    source: str
    planes: tuple[Plane, ...]
    suffix: str
    problem: str | None = None

    def __fspath__(self) -> str:
        return self.source

    def __str__(self) -> str:
        files = self.files
        return files[0] if len(files) == 1 else f"{Path(self.source).parent} ({_title(self.planes[0])})"

    @cached_property
    def files(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(plane.path for plane in self.planes)) or (self.source,)

    def sha256(self) -> str:
        """Hash of the hashes of all files, in the order of their contents' hashes, so that names do not count."""
        return hashlib.sha256("".join(sorted(sha256(path) for path in self.files)).encode()).hexdigest()


class Skipped(NamedTuple):
    """A file that is in order but not for us, and why."""

    path: str
    reason: str


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Whether a file has DICOM's preamble, or a suffix that only DICOM has, or cannot be read and so may be DICOM."""
    if str(path).lower().endswith(SUFFIXES):
        return True
    try:
        with open_file(path) as file:
            return file.read(MAGIC_AT + len(MAGIC))[MAGIC_AT:] == MAGIC
    except (OSError, ValueError):
        return True  # whoever reads it says what is wrong; it must not be passed by


def find_series(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Series], list[Skipped]]:
    """Volumes and projections in DICOM files and zip archives of them, and the files that were skipped.

    A series is refused, with the reason in ``problem``, where planes are missing, at one place twice, unevenly spaced
    or of mixed sizes, or where a file cannot be read. Patients, studies, series and orientations are never mixed.

    Args:
        paths: of files; archives are looked into.
    """
    planes: list[Plane] = []
    found: list[Series] = []
    broken: list[_Broken] = []
    skipped: list[Skipped] = []
    for path in _files(paths, found, skipped):
        try:
            planes += read_planes(path)
        except NotForUs as reason:
            skipped.append(Skipped(path, str(reason)))
        except ValueError as error:
            broken.append(_Broken(path, series_of(path), str(error)))
        except OSError as error:
            text = f"{path}: cannot be read ({error.strerror}); check that it is there and yours to read"
            broken.append(_Broken(path, "", text))
    known = {plane.series for plane in planes}
    found += [_series(group, _suspects(group, broken, known)) for group in _groups(planes)]
    found += _refused_alone([file for file in broken if file.series not in known])
    return sorted(found, key=lambda series: series.source), skipped


class _Broken(NamedTuple):
    """A file that cannot be read, the series that it names (``""``: none), and what is wrong."""

    path: str
    series: str
    reason: str


def _suspects(planes: Sequence[Plane], broken: Sequence[_Broken], known: set[str]) -> list[_Broken]:
    """Files that cannot be read and may be slices of a volume: of its series, or in its folder and of none known."""
    first = planes[0]
    if first.sop_class not in SLICES:
        return []
    folders = {Path(plane.path).parent for plane in planes}
    return [
        file
        for file in broken
        if file.series == first.series or (file.series not in known and Path(file.path).parent in folders)
    ]


def _refused_alone(broken: Sequence[_Broken]) -> list[Series]:
    """A case a series of which no file can be read, and one for each file that does not say what it belongs to."""
    cases: dict[str, list[_Broken]] = {}
    for file in broken:
        cases.setdefault(file.series or file.path, []).append(file)
    return [
        _refused(files[0].path, files[0].reason + (f" (and {len(files) - 1} more files)" if len(files) > 1 else ""))
        for files in cases.values()
    ]


def _files(paths: Iterable[str | os.PathLike[str]], found: list[Series], skipped: list[Skipped]) -> Iterable[str]:
    for path in map(str, paths):
        if not path.lower().endswith(ARCHIVE) or not os.path.isfile(path):
            yield path
            continue
        try:
            members = list_members(path)
        except (ValueError, OSError) as error:
            found.append(_refused(path, str(error)))
            continue
        images = [member for member in members if is_dicom(member)]
        skipped += [Skipped(member, "not a DICOM file") for member in members if member not in set(images)]
        yield from images


def _refused(source: str, problem: str) -> Series:
    return Series(source, (), ".dcm", problem)


def _groups(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Planes of one volume together: same patient, study, series and orientation; projections each by itself."""
    groups: dict[tuple[str, ...], list[list[Plane]]] = {}
    for plane in planes:
        alone = plane.sop_class in PROJECTIONS or plane.sop_class in MULTI_FRAME
        key = plane.patient, plane.study, plane.series, plane.sop_class, plane.path if alone else ""
        stacks = groups.setdefault(key, [])
        stack = next((stack for stack in stacks if _same_orientation(stack[0], plane)), None)
        if stack is None:
            stacks.append([plane])
        else:
            stack.append(plane)
    return [stack for stacks in groups.values() for stack in stacks]


def _same_orientation(one: Plane, other: Plane) -> bool:
    if one.orientation is None or other.orientation is None:
        return one.orientation is other.orientation
    return bool(np.abs(np.subtract(one.orientation, other.orientation)).max() < TURNED)


def _series(planes: list[Plane], suspects: Sequence[_Broken]) -> Series:
    ordered = sorted(planes, key=lambda plane: (_depth(plane), plane.path, plane.frame))
    files = sorted({plane.path for plane in ordered})
    suffix = ".dcm" if len(files) == 1 else ""
    problem = _problem(ordered)
    if suspects:
        more = f", nor can {len(suspects) - 1} more" if len(suspects) > 1 else ""
        problem = (
            f"{_place(ordered)}: one of its slices may be a file that cannot be read{more}; mend it or move it away: "
            f"{suspects[0].reason}"
        )
    return Series(_source(ordered, files), tuple(ordered), suffix, problem)


def _source(planes: Sequence[Plane], files: Sequence[str]) -> str:
    """The file; for a folder of files, its path and a name that no other series has."""
    first = planes[0]
    if len(files) == 1:
        path = Path(files[0])
        whole = len(planes) == first.frames
        return str(path if whole else path.with_name(f"{path.stem}-{_short_hash(first)}{path.suffix}"))
    folder = os.path.commonpath([str(Path(file).parent) for file in files])
    number = "" if first.series_number is None else str(first.series_number)
    return os.path.join(folder, f"series{number}-{_short_hash(first)}")


def _short_hash(plane: Plane) -> str:
    turn = [round(v, 2) + 0.0 for v in plane.orientation or ()]
    text = "\n".join(map(str, (plane.patient, plane.study, plane.series, plane.sop_class, turn)))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _depth(plane: Plane) -> float:
    """Distance of a plane from the origin along its normal, in mm."""
    if plane.position is None or plane.orientation is None:
        return 0.0
    return float(np.dot(plane.position, normal(plane)))


def normal(plane: Plane) -> np.ndarray:
    """Unit vector across a plane that has a place, in the patient's LPS system."""
    assert plane.orientation is not None
    return np.cross(plane.orientation[:3], plane.orientation[3:])


def _problem(planes: Sequence[Plane]) -> str | None:
    """Why planes in order make no volume; None where they do."""
    first = planes[0]
    for name, what in (
        ("size", "rows and columns"),
        ("spacing", "pixel spacing"),
        ("photometric", "photometric interpretation"),
        ("frame_of_reference", "frame of reference"),
    ):
        other = next((p for p in planes if not _equal(getattr(p, name), getattr(first, name))), None)
        if other is not None:
            values = f"{getattr(first, name)} in {first.path} and {getattr(other, name)} in {other.path}"
            return f"{_place(planes)}: all slices must have the same {what}, got {values}; {APART}"
    return _gaps(planes) if len(planes) > 1 else None


def _equal(one: object, other: object) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return bool(np.allclose(one, other, rtol=1e-4, atol=0))
    return one == other


def _gaps(planes: Sequence[Plane]) -> str | None:
    positions = np.array([plane.position for plane in planes])
    steps = np.diff(positions @ normal(planes[0]))
    typical = float(np.sort(steps)[(len(steps) - 1) // 2])  # a gap must not raise it where there are few
    where = _place(planes)
    twice = np.flatnonzero(steps <= SAME * typical)
    if len(twice):
        pair = " and ".join(_name(planes[twice[0] + k]) for k in (0, 1))
        return (
            f"{where}: {len(twice) + 1} or more slices lie at one place ({pair}): a time series, several echoes, or a "
            f"copy; {APART}"
        )
    wide = int(np.argmax(steps))
    pair = f"{_name(planes[wide])} and {_name(planes[wide + 1])}"
    if steps[wide] > 1.5 * typical:
        return f"{where}: slices are missing between {pair}: {steps[wide]:.3g} mm, elsewhere {typical:.3g}; fetch them"
    even = np.linspace(positions[0], positions[-1], len(positions))
    off = np.linalg.norm(positions - even, axis=1)
    if off.max() > EVEN * typical:
        name = _name(planes[int(np.argmax(off))])
        return (
            f"{where}: slices must be evenly spaced, got {steps.min():.4g} to {steps.max():.4g} mm, and {name} "
            f"{off.max():.3g} mm off its place; resample the series first"
        )
    return None


def _place(planes: Sequence[Plane]) -> str:
    files = {plane.path for plane in planes}
    folder = Path(planes[0].path).parent
    return planes[0].path if len(files) == 1 else f"{folder} ({_title(planes[0])})"


def _name(plane: Plane) -> str:
    frame = f" frame {plane.frame + 1}" if plane.sop_class in MULTI_FRAME else ""
    return f"{plane.path}{frame}"


def _title(plane: Plane) -> str:
    number = "" if plane.series_number is None else f" {plane.series_number}"
    return f"series{number} {plane.series_description}".strip()
