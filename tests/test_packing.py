"""What goes into a packed bundle, under which names, and what is refused."""

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import metadata, version
from pathlib import Path

import pytest
import torch
from monai.bundle import download_large_files
from packaging.specifiers import SpecifierSet

from common.io.archive import sha256
from common.new import new
from common.packing import pack as packing
from common.packing.environment import installed, runtime_requirements
from common.packing.members import gather
from common.packing.naming import name_of, nameless
from common.packing.pack import named, pack
from common.packing.zipped import write_zip
from common.seal import PACKAGE, check_seal
from common.table import variants
from common.weights import load_weights, store_weights
from tests.packed import NAME, members_of, pack_quickly, small_bundle, unpack


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def bundle(tmp_path) -> Path:
    """One of its own for a test that changes it."""
    return small_bundle(tmp_path)


@pytest.fixture
def found(monkeypatch):
    """Let ``pack`` find a bundle in another folder than the project's."""
    return lambda bundle: monkeypatch.setattr(packing, "find_bundles", lambda: {bundle.name: bundle})


def test_the_zip_holds_all_that_a_bundle_needs_in_one_folder(folder, tmp_path):
    members = members_of(pack_quickly(folder, tmp_path))
    package = next(name.split("/")[1] for name in members if name.startswith(f"{NAME}/sr_"))
    assert PACKAGE.fullmatch(package)[1] == NAME and {name.split("/")[0] for name in members} == {NAME}
    files = {name.removeprefix(f"{NAME}/") for name in members}
    assert files >= {
        *("LICENSE", "README.md", "SHA256SUMS", "sbom.cdx.json", "constraints.txt", "requirements.txt"),
        *("configs/inference.json", "configs/train.json", "configs/evaluate.json", "configs/metadata.json"),
        *("configs/logging.conf", "docs/README.md", "docs/data_license.txt", "models/model.pt"),
        *(f"{package}/{file}" for file in ("__init__.py", "network.py", "common/run.py", "common/io/dicom/write.py")),
    }
    assert not any(
        "__pycache__" in file or "templates/bundle" in file or file.endswith("model_x2.pt") for file in files
    )
    text = b"".join(content for name, content in members.items() if name.endswith((".py", ".json")))
    assert not re.search(rb"^\s*(from|import) (common|bundles)\b", text, re.M)
    assert b'"_target_": "common.' not in text and b'"_target_": "bundles.' not in text


def test_an_overlay_becomes_a_part_of_the_packed_bundle_and_its_weights_the_weights(folder, tmp_path):
    members = members_of(pack_quickly(folder, tmp_path, "inference_x2"))
    top = f"{NAME}_x2"
    inference, train, metadata = (
        json.loads(members[f"{top}/configs/{name}.json"]) for name in ("inference", "train", "metadata")
    )
    assert inference["scale"] == train["scale"] == 2 and inference["network_def"] == train["network_def"]
    assert inference["ckpt_path"] == "$os.path.join(@bundle_root, 'models', 'model.pt')" and train["ckpt_path"] is None
    assert members[f"{top}/models/model.pt"] == (folder / "models" / "model_x2.pt").read_bytes()
    digest = sha256(folder / "models" / "model_x2.pt")
    assert metadata["weights"] == {"model.pt": {"sha256": digest, "scale": 2, "licence": "MIT", "data": "noise"}}
    data = metadata["network_data_format"]
    low, high = data["inputs"]["image"]["spatial_shape"], data["outputs"]["pred"]["spatial_shape"]
    assert metadata["scale"] == [2] and high == [f"{2 * int(size.split('*')[0])}*n" for size in low]
    assert f"{top}/configs/inference_x2.json" not in members


def test_an_overlay_that_changes_the_network_and_names_no_weights_has_none(folder, tmp_path):
    members = members_of(pack_quickly(folder, tmp_path, "smoke"))
    assert not any(name.endswith((".pt", ".ts")) for name in members)
    assert json.loads(members[f"{NAME}_smoke/configs/metadata.json"])["weights"] == {}
    assert "pass yours by `--ckpt_path FILE`" in members[f"{NAME}_smoke/README.md"].decode()


def test_a_bundle_without_weights_packs(tmp_path):
    new("bare", root=tmp_path)
    members = members_of(pack_quickly(tmp_path / "bare", tmp_path))
    assert not any(name.startswith("bare/models") for name in members)


def test_the_name_of_the_code_follows_from_every_byte_of_the_content(folder):
    packed = gather(folder, None, nameless(NAME))
    name = name_of(packed.members, NAME)
    assert named(packed).package == name == name_of(dict(reversed(packed.members.items())), NAME)
    assert name_of(packed.members | {"sbom.cdx.json": b"x"}, NAME) == name  # of the machine that packed
    for path, content in packed.members.items():
        changed = packed.members | {path: content + b"\n"}
        assert name_of(changed, NAME) != name, path
    assert name_of(packed.members | {"models/model.ts": b"x"}, NAME) != name


def test_the_same_members_give_the_same_bytes(tmp_path):
    members = {"a/c.txt": b"1" * 1000, "a/b.py": b"2"}
    write_zip(members, tmp_path / "one.zip")
    write_zip(dict(reversed(members.items())), tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert list(members_of(tmp_path / "one.zip")) == ["a/b.py", "a/c.txt"]


def test_a_bundle_packs_to_the_same_bytes_again(folder, tmp_path):
    one, two = (pack_quickly(folder, tmp_path / name) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_the_environment_is_pinned_at_what_is_installed_and_the_bill_names_all_of_it(folder, tmp_path):
    members = members_of(pack_quickly(folder, tmp_path))
    lines = members[f"{NAME}/constraints.txt"].decode().splitlines()
    pins = dict(line.split(";")[0].split("==") for line in lines)
    for line in lines:  # what cannot be had for the oldest Python is not asked of it
        needs = SpecifierSet(metadata(line.split("==")[0])["Requires-Python"] or "")
        assert ("python_version" in line) != needs.contains("3.10")
    assert pins["monai"] == version("monai") and pins["torch"] == version("torch").split("+")[0]
    assert "ruff" not in pins and "pytest" not in pins
    bill = json.loads(members[f"{NAME}/sbom.cdx.json"])
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6") and "timestamp" not in bill["metadata"]
    libraries = {c["name"]: c for c in bill["components"] if c["type"] == "library"}
    assert {name: c["version"] for name, c in libraries.items()} == pins
    (model,) = (c for c in bill["components"] if c["type"] == "machine-learning-model")
    assert model["hashes"][0]["content"] == sha256(folder / "models" / "model.pt")
    refs = {c["bom-ref"] for c in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
    assert refs == {d["ref"] for d in bill["dependencies"]} | {model["bom-ref"]}
    assert {ref for d in bill["dependencies"] for ref in d["dependsOn"]} < refs
    asked = members[f"{NAME}/requirements.txt"].decode()
    assert asked.splitlines() == runtime_requirements() and "python-gdcm" in asked and "pytest" not in asked


def test_all_are_packed_and_their_sums_written(monkeypatch, folder, tmp_path):
    packed = []
    monkeypatch.setattr(packing, "variants", lambda: variants({NAME: folder}))
    monkeypatch.setattr(packing, "pack", lambda *words: packed.append(words) or "told")
    path = pack_quickly(folder, tmp_path)
    assert packing.pack_all(str(tmp_path)) == "told\ntold"
    assert packed == [(NAME, str(tmp_path), None), (NAME, str(tmp_path), "inference_x2")]
    assert (tmp_path / "SHA256SUMS").read_text() == f"{sha256(path)}  {path.name}\n"


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(ValueError, match=r"no-such-package: the package is not installed; run make setup"):
        installed(["no-such-package>=1"])


@pytest.mark.parametrize("path", ["LICENSE", "docs/README.md", "docs/data_license.txt", "configs/inference.json"])
def test_a_bundle_without_licence_or_card_is_refused(path, bundle, found, tmp_path):
    (bundle / path).unlink()
    found(bundle)
    with pytest.raises(ValueError, match=rf"{path}: is missing, and a bundle cannot be packed without it; write it"):
        pack(NAME, out=str(tmp_path / "dist"))
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize("overlay", ["inference_x3", "inference", "train", "metadata", "evaluate", "../x", ""])
def test_an_overlay_that_does_not_exist_is_refused(overlay, folder, found, tmp_path):
    found(folder)
    with pytest.raises(ValueError, match=r"overlay: of inference .*configs has inference_x2, smoke, got"):
        pack(NAME, out=str(tmp_path), overlay=overlay)


def test_a_bundle_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"bundle: must be one of .*rdst.*, got nothing"):
        pack("nothing", out=str(tmp_path))


@pytest.mark.parametrize("out", ["", "dist", "models/x"])
def test_a_zip_is_not_made_in_its_bundle(out, folder, found):
    found(folder)
    with pytest.raises(ValueError, match=r"out: must not lie in the bundle .*; choose another folder"):
        pack(NAME, out=str(folder / out))


def test_weights_that_are_not_listed_are_not_left_out_in_silence(found, tmp_path):
    new("bare", root=tmp_path)
    (tmp_path / "bare" / "models").mkdir()
    (tmp_path / "bare" / "models" / "model.pt").touch()
    found(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"model\.pt: is not listed in metadata\.json; store it by python -m common"):
        pack("bare", out=str(tmp_path))


def test_a_document_that_cannot_be_packed_is_named(bundle, found, tmp_path):
    (bundle / "docs" / "paper.pdf").touch()
    found(bundle)
    with pytest.raises(ValueError, match=r"paper\.pdf: cannot be packed, only .*\.png.* can; move it away"):
        pack(NAME, out=str(tmp_path))
    with pytest.raises(ValueError, match=r"out: must be a folder, got True; pass --out FOLDER"):
        pack(NAME, out=True)


def test_weights_that_are_not_as_listed_are_refused(bundle, found, tmp_path):
    (bundle / "models" / "model.pt").write_bytes(b"other")
    found(bundle)
    with pytest.raises(ValueError, match=r"model\.pt: SHA-256 must be .* as metadata\.json lists it, got"):
        pack(NAME, out=str(tmp_path))


def test_an_archive_with_other_content_is_not_replaced(bundle, found, tmp_path):
    found(bundle)
    first = pack_quickly(bundle, tmp_path).rename(tmp_path / f"{NAME}_v0.1.0.zip")
    before = first.read_bytes()
    (bundle / "docs" / "README.md").write_text("other")
    with pytest.raises(ValueError, match=r"v0\.1\.0\.zip: exists already, with other content; raise the version"):
        pack(NAME, out=str(tmp_path))
    assert first.read_bytes() == before
    first.write_bytes(before[:1000])
    with pytest.raises(ValueError, match=r"v0\.1\.0\.zip: exists already, with other content; raise the version"):
        pack(NAME, out=str(tmp_path))


def test_a_bundle_that_segments_says_so_and_needs_its_code(bundle, found, tmp_path):
    path = bundle / "configs" / "metadata.json"
    path.write_text(path.read_text().replace('"task": "', '"task": "Segmentation, '))
    found(bundle)
    with pytest.raises(ValueError, match="must make SR images to be packed as TorchScript, got a segmentation"):
        pack(NAME, out=str(tmp_path / "dist"), torchscript=True)
    page = members_of(pack_quickly(bundle, tmp_path))[f"{NAME}/README.md"].decode()
    assert "name_seg.nii.gz" in page and "super-resolves `IN`" not in page and "$" not in page


def test_what_has_no_weights_has_no_torchscript(folder, found, tmp_path):
    found(folder)
    with pytest.raises(ValueError, match=r"my_method_smoke: must have weights to be packed as TorchScript"):
        pack(NAME, out=str(tmp_path), overlay="smoke", torchscript=True)


def test_weights_that_do_not_fit_the_network_are_refused(bundle, found, tmp_path):
    torch.save({"other": torch.ones(1)}, tmp_path / "other.pt")
    store_weights(str(tmp_path / "other.pt"), str(bundle), scale=4, licence="MIT", data="noise")
    found(bundle)
    with pytest.raises(ValueError, match=r"my_method: its network cannot be exported as TorchScript with its weights"):
        pack(NAME, out=str(tmp_path / "dist"))
    assert not (tmp_path / "dist").exists()


LARGE = {"path": "models/model.pt", "url": "https://example.org/model.pt", "hash_type": "sha256"}


def large(bundle: Path, **changes: str) -> str:
    """Take the weights out of the bundle and name a place to fetch them from; their SHA-256."""
    weights = bundle / "models" / "model.pt"
    digest = sha256(weights)
    weights.unlink()
    entry = {**LARGE, "hash_val": digest, **changes}
    lines = [f"  {'-' if i == 0 else ' '} {key}: {json.dumps(value)}" for i, (key, value) in enumerate(entry.items())]
    (bundle / "large_files.yml").write_text("large_files:\n" + "\n".join(lines) + "\n")
    return digest


def test_weights_too_large_for_the_repository_are_named_in_the_zip_and_fetched_by_monai(bundle, tmp_path):
    weights = (bundle / "models" / "model.pt").read_bytes()
    (tmp_path / "elsewhere.pt").write_bytes(weights)
    digest = large(bundle, url=(tmp_path / "elsewhere.pt").as_uri())
    root = unpack(pack_quickly(bundle, tmp_path / "dist"), tmp_path / "here")
    assert not (root / "models").exists() and "download_large_files" in (root / "README.md").read_text()
    with pytest.raises(
        ValueError, match=r"no such weights; python -m monai\.bundle download_large_files --bundle_path"
    ):
        load_weights(torch.nn.Identity(), root / "models" / "model.pt", root, {})
    assert json.loads((root / "configs" / "metadata.json").read_text())["weights"]["model.pt"]["sha256"] == digest
    download_large_files(str(root))
    assert (root / "models" / "model.pt").read_bytes() == weights
    check_seal(next(root.glob("sr_*")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "models/other.pt"}, r"large_files\.yml: must have path and url of models/model\.pt; add them"),
        ({"url": ""}, r"large_files\.yml: must have path and url of models/model\.pt; add them"),
        (
            {"hash_type": "md5"},
            r"large_files\.yml: hash_type of models/model\.pt must be sha256, and hash_val [0-9a-f]{64}",
        ),
        (
            {"hash_val": "0" * 64},
            r"large_files\.yml: hash_type of models/model\.pt must be sha256, and hash_val [0-9a-f]{64}",
        ),
    ],
)
def test_large_files_without_place_or_sum_are_refused(changes, message, bundle):
    large(bundle, **changes)
    with pytest.raises(ValueError, match=message):
        gather(bundle, None, nameless(NAME))


def test_listed_weights_that_are_nowhere_are_refused(bundle):
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(
        ValueError, match=r"model\.pt: is missing, nor is there a large_files\.yml; fetch it, or unlist"
    ):
        gather(bundle, None, nameless(NAME))


def test_the_seal_finds_what_was_changed_removed_and_added(folder, tmp_path):
    root = unpack(pack_quickly(folder, tmp_path), tmp_path / "here")
    package = next(root.glob("sr_*"))
    check_seal(package)
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "network.cpython-311.pyc").touch()
    (root / "mine.txt").touch()
    check_seal(package)
    for path in ("models/model.pt", "configs/inference.json", f"{package.name}/network.py", "docs/README.md"):
        content = (root / path).read_bytes()
        (root / path).write_bytes(content + b" ")
        with pytest.raises(ValueError, match=rf"{path}: SHA-256 must be [0-9a-f]{{64}}, got .*; do not use it, unpack"):
            check_seal(package)
        (root / path).unlink()
        with pytest.raises(ValueError, match=rf"{path}: is missing; unpack the zip again, into an empty folder"):
            check_seal(package)
        (root / path).write_bytes(content)
    (package / "network").mkdir()
    (package / "network" / "__init__.py").touch()
    with pytest.raises(ValueError, match=r"network/__init__\.py: is no file of this bundle; do not use it"):
        check_seal(package)
    sums = root / "SHA256SUMS"
    sums.write_text("nonsense\n")
    with pytest.raises(ValueError, match=r"SHA256SUMS: must hold lines of a SHA-256 and a path, got 'nonsense'"):
        check_seal(package)
    sums.unlink()
    with pytest.raises(ValueError, match=r"SHA256SUMS: is missing"):
        check_seal(package)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_the_sums_are_in_the_form_of_sha256sum(folder, tmp_path):
    root = unpack(pack_quickly(folder, tmp_path), tmp_path / "here")
    command = ["sha256sum", "--quiet", "-c", "SHA256SUMS"]
    assert subprocess.run(command, cwd=root, check=False).returncode == 0
    (root / "LICENSE").write_text("other")
    assert subprocess.run(command, cwd=root, capture_output=True, check=False).returncode == 1


def test_the_page_of_the_zip_has_no_gap_and_names_what_is_there(folder, tmp_path):
    for overlay in (None, "inference_x2", "smoke"):
        members = members_of(pack_quickly(folder, tmp_path, overlay))
        top = next(iter(members)).split("/")[0]
        text = members[f"{top}/README.md"].decode()
        assert "$" not in text and "None" not in text and text.startswith(f"# {top} 0.1.0")
        for file in set(re.findall(r"[\w/.]+\.(?:txt|json|md|py)\b", text)) - {"models/model.pt"}:
            assert f"{top}/{file}" in members, file
        assert next(name.split("/")[1] for name in members if "/sr_" in name) in text


def test_two_zips_of_one_method_in_one_folder_are_refused(bundle, tmp_path):
    root = unpack(pack_quickly(bundle, tmp_path / "one"), tmp_path / "here")
    first = next(root.glob("sr_*"))
    (bundle / "docs" / "README.md").write_text("a later release")
    assert unpack(pack_quickly(bundle, tmp_path / "two"), tmp_path / "here") == root
    for package in root.glob("sr_*"):
        with pytest.raises(ValueError, match=r"my_method: must hold the code of one bundle, got sr_.* and sr_"):
            check_seal(package)
    assert first.exists()


def test_a_changed_bundle_does_not_start(folder, tmp_path):
    root = unpack(pack_quickly(folder, tmp_path), tmp_path / "here")
    package = next(root.glob("sr_*"))
    (package / "network.py").write_text('print("changed code ran")\n')
    words = [sys.executable, "-c", f"import {package.name}.network"]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "network.py: SHA-256 must be" in done.stderr and "changed code" not in done.stdout
