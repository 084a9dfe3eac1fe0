"""The table of bundles: made of metadata, equal to what the README shows, with scores of all shipped weights."""

import json
from pathlib import Path

import pytest

from common.io.archive import sha256
from common.table import BLOCK, HEADINGS, README, _score, render, store_scores, table, variants
from tests.packed import NAME, small_bundle

MEAN = {"mean": 30.123456, "sd": None}


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_the_readme_shows_what_the_metadata_say():
    shown = BLOCK.search(README.read_text())
    assert shown is not None
    head, _, *body = rows(shown[0])
    assert head == list(HEADINGS) and len(body) == len(variants())
    sizes = {row[0].split("]")[0].strip("["): row[-1] for row in body}
    assert shown[0] == render(sizes), "run make pack"
    assert all(size.endswith(" MiB") and float(size.split()[0]) > 0 for size in sizes.values())


def test_every_weights_file_that_is_shipped_has_a_zip_and_scores_beside_bicubic():
    for folder in {variant.folder for variant in variants()}:
        listed = json.loads((folder / "configs" / "metadata.json").read_text())["weights"]
        assert {v.weights for v in variants() if v.folder == folder and v.weights} == set(listed)
        for about in listed.values():
            assert {"psnr_bicubic", "psnr_sr"} <= set(about["scores"]) or "dice" in about["scores"]
            assert {"protocol", "patients"} <= set(about["scores"])


def summary(path: Path, digest: str) -> str:
    found = {"weights_sha256": digest, "scale": 2, "protocol": "clean", "patients": 2, "slices": 9}
    methods = {"bicubic": {"psnr": {**MEAN, "mean": 28.5}, "ssim": MEAN}, "My method": {"psnr": MEAN, "ssim": MEAN}}
    path.write_text(json.dumps(found | methods))
    return str(path)


def test_scores_are_noted_for_the_weights_that_were_evaluated(tmp_path):
    bundle = small_bundle(tmp_path)
    path = bundle / "configs" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": "My method"}))
    store_scores(summary(tmp_path / "s.json", sha256(bundle / "models" / "model_x2.pt")), str(bundle))
    listed = json.loads(path.read_text())["weights"]
    scores = listed["model_x2.pt"]["scores"]
    assert scores["psnr_bicubic"] == 28.5 and scores["psnr_sr"] == 30.1235 and scores["patients"] == 2
    assert "scores" not in listed["model.pt"]
    assert [v.name for v in variants({NAME: bundle})] == [NAME, f"{NAME}_x2"]


def test_the_dice_of_a_segmentation_is_its_score(tmp_path):
    bundle = small_bundle(tmp_path)
    digest = sha256(bundle / "models" / "model.pt")
    dice = {"HR": {"heart": {"mean": 0.8766, "sd": 0.1}, "lesion": {"mean": None, "sd": None}}}
    found = {"weights_sha256": digest, "protocol": "clean", "patients": 3, "dice": dice}
    (tmp_path / "s.json").write_text(json.dumps(found))
    store_scores(str(tmp_path / "s.json"), str(bundle))
    scores = json.loads((bundle / "configs" / "metadata.json").read_text())["weights"]["model.pt"]["scores"]
    assert scores == {"protocol": "clean", "patients": 3, "dice": {"heart": 0.8766}}
    assert _score({"scores": scores}) == "Dice heart 0.877" and _score({}) == "–"


def test_a_score_says_its_scale_where_the_weights_serve_many():
    scores = {"scale": 4, "psnr_bicubic": 20.0, "psnr_sr": 21.5}
    assert _score({"scores": scores}) == "×4: PSNR 20.00 → 21.50 dB"
    assert _score({"scores": scores, "scale": 4}) == "PSNR 20.00 → 21.50 dB"


def test_scores_of_other_weights_are_refused(tmp_path):
    bundle = small_bundle(tmp_path)
    with pytest.raises(ValueError, match=r"s\.json: must be an evaluation of weights that .*, got SHA-256 00"):
        store_scores(summary(tmp_path / "s.json", "00"), str(bundle))
    with pytest.raises(ValueError, match=r"nowhere\.json: must be a JSON file, got"):
        store_scores(str(tmp_path / "nowhere.json"), str(bundle))


def test_the_table_is_written_between_its_lines(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bundles -->\nold\n<!-- end of bundles -->\nafter\n")
    for variant in variants():
        version = json.loads((variant.folder / "configs" / "metadata.json").read_text())["version"]
        (tmp_path / f"{variant.name}_v{version}.zip").write_bytes(b"\0" * (3 << 20))
    text = table(str(tmp_path), str(readme))
    assert readme.read_text() == f"before\n<!-- bundles -->\n{text}<!-- end of bundles -->\nafter\n"
    assert rows(text)[2][-1] == "3.0 MiB"


def test_without_zips_or_place_there_is_no_table(tmp_path):
    with pytest.raises(ValueError, match=r"_v.*\.zip: is missing; run python -m common pack-all --out"):
        table(str(tmp_path), str(tmp_path / "README.md"))
