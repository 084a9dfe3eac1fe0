"""A packed bundle examined without running it: what is in order passes, whatever was done to it is found."""

import hashlib
import io
import json
import pickle
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from common.io.archive import sha256
from common.metadata import check_metadata
from common.packing.environment import runtime_requirements
from common.packing.members import gather
from common.packing.naming import name_of, nameless, rename
from common.packing.pack import add_environment, finish, named
from common.packing.scripted import needed, without_code
from common.packing.verify import verify
from common.packing.zipped import write_zip
from tests.packed import NAME, members_of, pack_quickly, sealed_again, small_bundle

Members = dict[str, bytes]


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    return pack_quickly(small_bundle(root), root / "dist")


@pytest.fixture(scope="module")
def members(good) -> Members:
    return members_of(good)


def test_what_is_in_order_is_described(good):
    text = verify(str(good))
    assert verify(str(good), sha256=sha256(good).upper()) == text
    assert "in order" in text and NAME in text and sha256(good) in text and "x4, MIT (models/model.pt)" in text


def test_another_file_than_the_published_one_is_refused(good):
    with pytest.raises(ValueError, match=r"\.zip: SHA-256 must be 00ff, got [0-9a-f]{64}; do not use it"):
        verify(str(good), sha256="00ff")
    with pytest.raises(ValueError, match=r"nowhere\.zip: there is no such file; check the path"):
        verify("nowhere.zip")


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_zip_cut_short_is_refused(keep, good, tmp_path):
    content = good.read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(ValueError, match=r"cut\.zip: not a readable zip archive"):
        verify(str(tmp_path / "cut.zip"))


def test_a_flipped_byte_is_found_wherever_it_changes_a_file(good, tmp_path):
    content, path, found = good.read_bytes(), tmp_path / "damaged.zip", 0
    for place in range(100, len(content), len(content) // 40):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            verify(str(path))
        except ValueError as error:
            assert "damaged.zip" in str(error)
            found += 1
        else:
            assert members_of(path) == members_of(good)  # a date, say
    assert found >= 30


def script(names: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    """A TorchScript archive whose pickle asks for what is named."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("model/data.pkl", b"\x80\x02c" + names + b"\n.")
    return out.getvalue()


def code(members: Members) -> str:
    return next(name.split("/")[1] for name in members if "/sr_" in name)


def with_weights(members: Members, weights: bytes) -> Members:
    """Weights replaced, and their SHA-256 in the metadata too."""
    path = f"{NAME}/configs/metadata.json"
    metadata = json.loads(members[path])
    metadata["weights"]["model.pt"]["sha256"] = hashlib.sha256(weights).hexdigest()
    return members | {path: json.dumps(metadata).encode(), f"{NAME}/models/model.pt": weights}


def without(members: Members, name: str) -> Members:
    return {path: content for path, content in members.items() if path != f"{NAME}/{name}"}


CHANGES: dict[str, tuple[Callable[[Members], Members], str]] = {
    "weights": (lambda m: m | {f"{NAME}/models/model.pt": b"x"}, r"SHA-256 of models/model\.pt must be"),
    "code": (lambda m: m | {f"{NAME}/{code(m)}/network.py": b"x"}, r"SHA-256 of sr_.*/network\.py must be"),
    "config": (lambda m: m | {f"{NAME}/configs/inference.json": b"{}"}, r"SHA-256 of configs/inference\.json must be"),
    "added": (lambda m: m | {f"{NAME}/new.txt": b""}, r"new\.txt is not in SHA256SUMS"),
    "removed": (lambda m: without(m, "docs/data_license.txt"), r"docs/data_license\.txt is missing"),
    "no sums": (lambda m: without(m, "SHA256SUMS"), r"must hold SHA256SUMS"),
    "no licence": (lambda m: sealed_again(without(m, "LICENSE")), r"must hold LICENSE"),
    "no card": (lambda m: sealed_again(without(m, "docs/README.md")), r"must hold docs/README\.md"),
    "code with new sums": (
        lambda m: sealed_again(m | {f"{NAME}/{code(m)}/network.py": b"import os\n"}),
        r"by its content the code must be called sr_my_method_[0-9a-f]{8}, got",
    ),
    "weights with new sums": (
        lambda m: sealed_again(m | {f"{NAME}/models/model.pt": b"x"}),
        r"models/model\.pt must be listed by metadata\.json with its SHA-256",
    ),
    "config with new sums": (
        lambda m: sealed_again(m | {f"{NAME}/configs/train.json": b"{}"}),
        r"by its content the code must be called",
    ),
    "code outside": (lambda m: sealed_again(m | {f"{NAME}/scripts/x.py": b""}), r"code must lie in one package"),
    "two codes": (lambda m: sealed_again(m | {f"{NAME}/sr_a_00000000/x.py": b""}), r"code must lie in one package"),
    "a program": (
        lambda m: sealed_again(m | {f"{NAME}/lib.so": b""}),
        r"must hold code, .* only, got lib\.so",
    ),
    "a pickle": (
        lambda m: sealed_again(m | {f"{NAME}/models/x.pkl": b""}),
        r"must hold code, .* only, got models/x",
    ),
    "no bill": (
        lambda m: sealed_again(m | {f"{NAME}/sbom.cdx.json": b"{}"}),
        r"sbom\.cdx\.json must be a bill of",
    ),
    "no JSON": (lambda m: sealed_again(m | {f"{NAME}/sbom.cdx.json": b"{"}), r"sbom\.cdx\.json: must be JSON"),
    "script": (
        lambda m: sealed_again(m | {f"{NAME}/models/model.ts": script(b"os\nsystem")}),
        r"models/model\.ts must hold TorchScript and tensors only, got 'os system'",
    ),
    "no script": (
        lambda m: sealed_again(m | {f"{NAME}/models/model.ts": b"x"}),
        r"models/model\.ts is no TorchScript archive",
    ),
    "damaged script": (
        lambda m: sealed_again(m | {f"{NAME}/models/model.ts": script(b"os")}),
        r"models/model\.ts is no TorchScript archive",
    ),
    "compressed script": (
        lambda m: sealed_again(m | {f"{NAME}/models/model.ts": script(b"torch\nFloatStorage", zipfile.ZIP_DEFLATED)}),
        r"models/model\.ts is no TorchScript archive: its members must be stored",
    ),
    "deep JSON": (lambda m: sealed_again(m | {f"{NAME}/docs/a.json": b"[" * 10**6}), r"code must be called"),
    "model that no name covers": (
        lambda m: sealed_again(m | {f"{NAME}/models/model.ts": script(b"torch\nFloatStorage")}),
        r"by its content the code must be called",
    ),
    "address": (
        lambda m: sealed_again(m | {f"{NAME}/requirements.txt": b"evil @ http://example.org/evil.zip\n"}),
        r"requirements\.txt must hold names and versions of packages only, got 'evil @",
    ),
    "option": (
        lambda m: sealed_again(m | {f"{NAME}/constraints.txt": b"--extra-index-url http://example.org\n"}),
        r"constraints\.txt must hold names and versions of packages only, got '--extra",
    ),
    "other metadata": (
        lambda m: sealed_again(m | {f"{NAME}/configs/metadata.json": b'{"weights": []}'}),
        r"configs/metadata\.json: must have authors",
    ),
    "folder": (lambda m: m | {f"{NAME}/docs/": b""}, r"must hold files by their plain paths, got 'my_method/docs/'"),
    "folder out": (lambda m: m | {"../evil/": b""}, r"a name leads out of the archive"),
    "odd path": (lambda m: m | {f"{NAME}//y.txt": b""}, r"must hold files by their plain paths"),
    "second folder": (
        lambda m: m | {"other/a.txt": b""},
        r"must hold one folder and all else in it, got my_method",
    ),
    "file beside": (lambda m: m | {"a.txt": b""}, r"must hold one folder and all else in it"),
    "two cases": (lambda m: m | {f"{NAME}/license": b""}, r"holds two files of one name"),
    "path out": (lambda m: m | {f"{NAME}/../../x.txt": b""}, r"a name leads out of the archive"),
    "absolute": (lambda m: m | {"/tmp/x.txt": b""}, r"a name leads out of the archive"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_was_done_to_it_is_found(change, members, tmp_path):
    make, message = CHANGES[change]
    write_zip(make(dict(members)), tmp_path / "bad.zip")
    with pytest.raises(ValueError, match=rf"bad\.zip: .*{message}|{message}"):
        verify(str(tmp_path / "bad.zip"))


def test_links_are_refused(members, tmp_path):
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        info = zipfile.ZipInfo(f"{NAME}/link.txt")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ValueError, match=r"link\.zip: the archive must hold no links"):
        verify(str(tmp_path / "link.zip"))


def test_a_bomb_is_refused(members, tmp_path):
    write_zip(members | {f"{NAME}/bomb.txt": b"\0" * (300 << 20)}, tmp_path / "bomb.zip")
    with pytest.raises(ValueError, match=r"bomb\.zip: the archive would unpack to .* which looks like a bomb"):
        verify(str(tmp_path / "bomb.zip"))


class Evil:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["pickle", "torch", "list", "compressed", "damaged"])
def test_weights_that_are_more_than_tensors_are_refused_and_not_run(kind, members, tmp_path):
    out = io.BytesIO()
    if kind == "pickle":
        pickle.dump(Evil(tmp_path / "ran"), out)
    elif kind == "damaged":
        out.write(b"\x80\x02}q\x00(X\x01\x00\x00\x00ab")
    elif kind == "compressed":
        write_zip({"model/data.pkl": members[f"{NAME}/models/model.pt"]}, tmp_path / "compressed.pt")
        out.write((tmp_path / "compressed.pt").read_bytes())
    else:
        torch.save({"a": Evil(tmp_path / "ran")} if kind == "torch" else [torch.ones(1)], out)
    inner = {path.split("/", 1)[1]: c for path, c in with_weights(dict(members), out.getvalue()).items()}
    old = code(members)
    inner = rename(inner, old, nameless(NAME))
    inner = rename(inner, nameless(NAME), name_of(inner, NAME))  # somebody who does it all over again
    write_zip(sealed_again({f"{NAME}/{path}": content for path, content in inner.items()}), tmp_path / "evil.zip")
    with pytest.raises(ValueError, match=r"evil\.zip: models/model\.pt must be a PyTorch state dict of nothing"):
        verify(str(tmp_path / "evil.zip"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", None, "must have version"),
        ("network_data_format", None, "must have network_data_format"),
        ("task", "", "task must be text, got ''"),
        ("changelog", {}, "changelog must have the version, 0.1.0"),
        ("weights", [], "weights must be a JSON object"),
        ("weights", {"model.pt": {"sha256": "x"}}, "weights of model.pt must have a SHA-256"),
        ("weights", {"model.pt": {"sha256": "0" * 64}}, "weights of model.pt must have scale, licence and data"),
        ("network_data_format", {"inputs": {}, "outputs": {}}, "network_data_format must have inputs, image"),
        ("network_data_format", {"inputs": {"image": {}}}, "inputs, image must have type, got None"),
    ],
)
def test_metadata_that_lack_something_are_refused(key, value, message, members):
    metadata = json.loads(members[f"{NAME}/configs/metadata.json"])
    check_metadata(metadata, "m.json")
    changed = {k: v for k, v in metadata.items() if k != key} if value is None else metadata | {key: value}
    with pytest.raises(ValueError, match=rf"m\.json: .*{message}"):
        check_metadata(changed, "m.json")
    with pytest.raises(ValueError, match=r"m\.json: must be a JSON object, got list"):
        check_metadata([], "m.json")


@pytest.fixture
def scripted(tmp_path) -> Members:
    """A bundle without code."""
    bundle = small_bundle(tmp_path)
    packed = named(gather(bundle, None, nameless(NAME)))
    packed = without_code(packed, script(b"torch\nFloatStorage"))
    add_environment(packed, needed(runtime_requirements()))
    finish(packed, tmp_path / "scripted.zip")
    return members_of(tmp_path / "scripted.zip")


@pytest.mark.parametrize("name", ["models/model.ts", "configs/inference.json"])
@pytest.mark.parametrize("gone", [False, True])
def test_without_code_the_model_is_that_of_the_config_and_the_config_ours(name, gone, scripted, tmp_path):
    path = f"{NAME}_torchscript/{name}"
    changed = (
        script(b"torch\nHalfStorage") if name.endswith(".ts") else scripted[path].replace(b"glob.glob", b"os.system")
    )
    assert changed != scripted[path]
    others = {key: content for key, content in scripted.items() if key != path}
    write_zip(sealed_again(others if gone else others | {path: changed}), tmp_path / "bad.zip")
    with pytest.raises(
        ValueError, match=r"bad\.zip: (configs/inference\.json must be that of bundles|must hold configs)"
    ):
        verify(str(tmp_path / "bad.zip"))
