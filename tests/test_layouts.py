import json
from pathlib import Path

import pytest
from monai.data import load_decathlon_datalist

from common.data.items import SPLITS, check_splits
from common.data.layouts import LAYOUTS, datalist


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def oasis(root: Path, patients: int) -> None:
    for i in range(patients):
        for session in ("MR1", "MR2") if i % 5 == 0 else ("MR1",):
            name = f"OAS1_{i:04d}_{session}"
            for kind in ("img", "hdr"):
                touch(root, f"disc{i % 3}/{name}/PROCESSED/MPRAGE/T88_111/{name}_mpr_n4_anon_111_t88_masked_gfc.{kind}")
                touch(root, f"disc{i % 3}/{name}/FSL_SEG/{name}_mpr_n4_anon_111_t88_masked_gfc_fseg.{kind}")


def brats(root: Path, patients: int) -> None:
    for i in range(patients):
        name = f"Brats17_CBICA_{i:03d}_1"
        touch(
            root,
            *(f"{'HGG' if i % 2 else 'LGG'}/{name}/{name}_{m}.nii.gz" for m in ("t1ce", "t1", "t2", "flair", "seg")),
        )


def acdc(root: Path, patients: int) -> None:
    for i in range(1, patients + 1):
        name = f"patient{i:03d}"
        touch(root, *(f"{name}/{name}_frame{f}{gt}.nii.gz" for f in ("01", "12") for gt in ("", "_gt")))
        touch(root, f"{name}/{name}_4d.nii.gz", f"{name}/Info.cfg")


def covid(root: Path, patients: int) -> None:
    for i in range(patients):
        touch(root, f"coronacases_{i:03d}.nii.gz", f"mask/coronacases_{i:03d}.nii.gz")


def covid_ct(root: Path, patients: int) -> None:
    """The last 50 in ``Validation``, only some of them with a label."""
    for i in range(patients):
        folder, name = "Train" if i < patients - 50 else "Validation", f"volume-covid19-A-{i:04d}"
        touch(root, f"{folder}/{name}_ct.nii.gz")
        if folder == "Train" or i % 2:
            touch(root, f"{folder}/{name}_seg.nii.gz")


MAKE = {
    "oasis": (oasis, 40),
    "brats": (brats, 151),
    "acdc": (acdc, 100),
    "covid": (covid, 20),
    "covid-ct": (covid_ct, 249),
}


@pytest.mark.parametrize("layout", MAKE)
def test_each_layout_is_split_by_patients_as_in_the_paper(tmp_path, layout):
    make, count = MAKE[layout]
    make(tmp_path, count)
    out = tmp_path / "lists" / "datalist.json"
    datalist(layout, str(tmp_path), str(out))
    content = json.loads(out.read_text())
    patients = {split: {item["patient"] for item in content[split]} for split in SPLITS}
    train, val, test = LAYOUTS[layout].sizes
    assert [len(patients[split]) for split in SPLITS] == [train - val, val, test]
    assert len(set.union(*patients.values())) == train + test
    first = load_decathlon_datalist(str(out), False, "training", str(tmp_path))[0]
    images = first["image"] if isinstance(first["image"], list) else [first["image"]]
    assert all(Path(p).is_file() for p in [*images, first["label"]])
    assert len(images) == (4 if layout == "brats" else 1) and content["crop"]


def test_both_sessions_of_a_patient_stay_together(tmp_path):
    oasis(tmp_path, 40)
    datalist("oasis", str(tmp_path), str(tmp_path / "d.json"))
    content = json.loads((tmp_path / "d.json").read_text())
    of_first = [split for split in SPLITS for item in content[split] if item["patient"] == "OAS1_0000"]
    assert len(set(of_first)) <= 1
    assert sum(len(content[split]) for split in SPLITS) > 39


def test_covid_ct_is_tested_on_patients_of_its_folder_for_validation_alone(tmp_path):
    covid_ct(tmp_path, 249)
    out = tmp_path / "d.json"
    drawn = []
    for seed in (0, 1):
        datalist("covid-ct", str(tmp_path), str(out), seed=seed)
        content = json.loads(out.read_text())
        folders = {split: {item["image"].split("/")[0] for item in content[split]} for split in SPLITS}
        assert folders == {"training": {"Train"}, "validation": {"Train"}, "test": {"Validation"}}
        assert content["crop"] == [412, 332]  # x, y
        assert 0 < sum("label" in item for item in content["test"]) < 25
        drawn.append(content["test"])
    assert drawn[0] != drawn[1]
    with pytest.raises(
        ValueError, match=r"190 patients for training and 51 of those held out are asked for, 199 and 50"
    ):
        datalist("covid-ct", str(tmp_path), str(out), train=190, test=51)
    (tmp_path / "Train" / "volume-covid19-A-0007_seg.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"must hold one Train/volume-covid19-A-0007_seg\.nii\*, got 0"):
        datalist("covid-ct", str(tmp_path), str(out))


def test_the_draw_follows_its_seed(tmp_path):
    covid(tmp_path, 20)
    texts = []
    for seed in (0, 0, 1):
        datalist("covid", str(tmp_path), str(tmp_path / "d.json"), seed=seed)
        texts.append((tmp_path / "d.json").read_text())
    assert texts[0] == texts[1] and json.loads(texts[0])["test"] != json.loads(texts[2])["test"]


def test_any_folder_is_split_by_subfolder_or_bids_name(tmp_path):
    touch(tmp_path, *(f"sub-{i:02d}_ses-{s}_T1w.nii.gz" for i in range(5) for s in (1, 2)))
    touch(tmp_path, *(f"patient{i}/{name}.nii" for i in range(5) for name in ("FLAIR", "T1W")), "single.nii.gz")
    datalist("folder", str(tmp_path), str(tmp_path / "d.json"))
    content = json.loads((tmp_path / "d.json").read_text())
    patients = {split: {item["patient"] for item in content[split]} for split in SPLITS}
    assert [len(patients[split]) for split in SPLITS] == [8, 1, 2]
    assert set.union(*patients.values()) == {f"sub-{i:02d}" for i in range(5)} | {f"patient{i}" for i in range(5)} | {
        "single"
    }
    datalist("folder", str(tmp_path), str(tmp_path / "d.json"), train=5, val=2, test=4)
    content = json.loads((tmp_path / "d.json").read_text())
    assert [len({item["patient"] for item in content[split]}) for split in SPLITS] == [3, 2, 4]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (
            "HGG/Brats17_CBICA_001_1/Brats17_CBICA_001_1_t2.nii.gz",
            r"001_1: must hold one Brats17_CBICA_001_1_t2\.nii\*, got 0",
        ),
        ("LGG/Brats17_CBICA_000_1/Brats17_CBICA_000_1_seg.nii.gz", r"000_1: must hold one Brats17_CBICA_000_1_seg"),
    ],
)
def test_a_missing_modality_or_label_is_named(tmp_path, missing, message):
    brats(tmp_path, 4)
    (tmp_path / missing).unlink()
    with pytest.raises(ValueError, match=message):
        datalist("brats", str(tmp_path), str(tmp_path / "d.json"), train=3, val=1, test=1)
    assert not (tmp_path / "d.json").exists()


@pytest.mark.parametrize(
    ("layout", "sizes", "message"),
    [
        ("covid", {}, r"16 \+ 4 patients are asked for, 5 were found"),
        ("covid", {"train": 1, "val": 1, "test": 1}, "every split needs a patient"),
        ("covid", {"train": 3, "val": 1, "test": 0}, "every split needs a patient"),
        ("mri", {}, "layout: must be one of oasis, brats"),
    ],
)
def test_splits_that_cannot_be_filled_are_refused(tmp_path, layout, sizes, message):
    covid(tmp_path, 5)
    with pytest.raises(ValueError, match=message):
        datalist(layout, str(tmp_path), str(tmp_path / "d.json"), **sizes)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere: there is no such folder; check --root"):
        datalist("folder", str(tmp_path / "nowhere"))


def test_a_patient_in_two_splits_is_named():
    splits = {"training": "a", "validation": "b", "test": "a"}
    content = {split: [{"patient": name, "image": f"{name}.nii.gz"}] for split, name in splits.items()}
    with pytest.raises(ValueError, match=r"d\.json: a is in 'training' and in 'test'"):
        check_splits(content, "d.json")
    with pytest.raises(ValueError, match="split 'test' must not be empty"):
        check_splits({**content, "test": []}, "d.json")
