"""The packages that a packed bundle needs: what it asks pip for, all versions that it was packed with, and an SBOM."""

from __future__ import annotations

import importlib.metadata
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = "medical-sr-bundles"
EXTRAS = ("dicom",)  # decoders: a clinic needs them
OLDEST, NEXT = Version("3.10"), Version("3.11")  # Python: what setup.cfg asks for, and what comes after
SPECIFICATION = "1.6"  # of CycloneDX


@dataclass(frozen=True)
class Package:
    """An installed package, and the canonical names of those that it needs."""

    name: str
    version: str
    licence: str
    python: str
    needs: tuple[str, ...]

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{canonicalize_name(self.name)}@{self.version}"


def runtime_requirements() -> list[str]:
    """What pip must install for a bundle to run, as ``setup.cfg`` asks for it.

    Raises:
        ValueError: this project is not installed.
    """
    try:
        lines = importlib.metadata.requires(PROJECT) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(f"{PROJECT}: must be installed to pack a bundle; run make setup") from error
    chosen = [Requirement(line) for line in lines]
    chosen = [r for r in chosen if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in ("", *EXTRAS))]
    for requirement in chosen:
        requirement.marker = None
    return sorted({str(requirement) for requirement in chosen}, key=str.lower)


def installed(requirements: Sequence[str]) -> dict[str, Package]:
    """Every package that ``requirements`` need, at the version that is installed here, by canonical name.

    Raises:
        ValueError: one is not installed.
    """
    found: dict[str, Package] = {}
    open_ = [(Requirement(line), "") for line in requirements]
    done = set()
    while open_:
        requirement, asked_by = open_.pop()
        name = canonicalize_name(requirement.name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            by = f", which {asked_by} needs," if asked_by else ""
            raise ValueError(f"{name}: the package{by} is not installed; run make setup") from error
        needs = [r for r in map(Requirement, distribution.requires or []) if _applies(r, ("", *requirement.extras))]
        open_ += [(need, name) for need in needs if (need.name, tuple(sorted(need.extras))) not in done]
        done |= {(need.name, tuple(sorted(need.extras))) for need in needs}
        earlier = found[name].needs if name in found else ()
        python = str(distribution.metadata["Requires-Python"] or "")
        names = sorted({*earlier, *(str(canonicalize_name(need.name)) for need in needs)})
        public = Version(distribution.version).public  # without +cpu, which no index has
        found[name] = Package(distribution.metadata["Name"], public, _licence(distribution), python, tuple(names))
    return dict(sorted(found.items()))


def _applies(requirement: Requirement, extras: Sequence[str]) -> bool:
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)


def _licence(distribution: importlib.metadata.Distribution) -> str:
    """As the package states it: an expression, else classifiers, else the first line of its text."""
    metadata: Any = distribution.metadata
    classifiers = [
        line.split(" :: ")[-1] for line in metadata.get_all("Classifier") or [] if line.startswith("License")
    ]
    stated = metadata.get("License-Expression") or " and ".join(classifiers) or metadata.get("License") or "unknown"
    return str(stated).strip().splitlines()[0]


def constraints(packages: Mapping[str, Package]) -> str:
    """Text of a constraints file for pip; a version that needs a newer Python than the oldest is for that one only."""
    lines = []
    for package in packages.values():
        least = max((Version(s.version) for s in SpecifierSet(package.python) if s.operator == ">="), default=OLDEST)
        marker = f'; python_version >= "{least.major}.{least.minor}"' if least >= NEXT else ""
        lines.append(f"{package.name}=={package.version}{marker}\n")
    return "".join(lines)


def sbom(
    name: str,
    metadata: Mapping[str, Any],
    packages: Mapping[str, Package],
    roots: Sequence[str],
    models: Mapping[str, str],
) -> str:
    """Software bill of materials of a packed bundle, CycloneDX JSON: its weights, and every package that it needs.

    Args:
        name, metadata: of the bundle.
        packages: from :func:`installed`.
        roots: what is asked of pip.
        models: path to SHA-256 of the files that hold weights.

    It has no date, and a serial number that follows from its content: the same bundle has the same bill.
    """
    ref = f"{name}@{metadata['version']}"
    about = metadata["weights"].get("model.pt", {})
    weights = [_model(f"{ref}/{path}", path, digest, about) for path, digest in models.items()]
    asked = sorted({packages[canonicalize_name(Requirement(root).name)].purl for root in roots})
    dependencies = [{"ref": ref, "dependsOn": asked + [str(w["bom-ref"]) for w in weights]}]
    dependencies += [{"ref": p.purl, "dependsOn": [packages[n].purl for n in p.needs]} for p in packages.values()]
    bundle = {"name": name, "version": metadata["version"], "description": metadata["description"]}
    licence = {"licenses": [{"license": {"id": "Apache-2.0"}}]}
    content = {
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": ref, **bundle, **licence}},
        "components": weights + [_library(package) for package in packages.values()],
        "dependencies": dependencies,
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content, sort_keys=True))
    return json.dumps({"serialNumber": f"urn:uuid:{serial}", **content}, indent=4) + "\n"


def _model(ref: str, path: str, digest: str, about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": ref,
        "name": path,
        "description": f"trained on {about['data']}",
        "hashes": [{"alg": "SHA-256", "content": digest}],
        "licenses": [{"license": {"name": about["licence"]}}],
    }


def _library(package: Package) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
        "licenses": [{"license": {"name": package.licence}}],
    }
