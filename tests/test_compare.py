"""Paired comparison over seeds: numbers worked out by hand and by SciPy, pairing by name, and every mistake named."""

import csv
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

from common.compare import compare, paired_difference
from common.seeds import read_variant

BLANK = dict.fromkeys(("ssim", "ms_ssim", "consistency"), "")


def write(
    folder: Path,
    psnr: dict[str, object],
    dice: dict[str, object] | None = None,
    conditions: dict | None = None,
    **more: dict,
) -> Path:
    """An evaluation of the method "SR": PSNR and Dice of region LV of each patient, and other columns by name."""
    folder.mkdir(parents=True)
    rows = [{"method": "bicubic", "patient": p, "slices": 9, "psnr": 1.0, **BLANK} for p in psnr]
    columns = {name: more.get(name, {}) for name in BLANK}
    rows += [
        {"method": "SR", "patient": p, "slices": 9, "psnr": v, **{c: columns[c].get(p, "") for c in columns}}
        for p, v in psnr.items()
    ]
    save(folder / "patients.csv", rows)
    (folder / "summary.json").write_text(json.dumps({"protocol": "clean", "scale": 4} | (conditions or {})))
    if dice is not None:
        rows = [{"method": m, "patient": p, "LV": 0.99} for m in ("HR", "bicubic") for p in dice]
        save(
            folder / "segmentation_patients.csv",
            rows + [{"method": "SR", "patient": p, "LV": v} for p, v in dice.items()],
        )
    return folder


def save(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def table(text: str) -> dict[tuple[str, str], list[str]]:
    """Metric and variant to the other cells."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    return {(row[0], row[1]): row[2:] for row in rows}


@pytest.fixture
def runs(tmp_path) -> Path:
    """Two seeds of l1, with means 31 in a, 30 in b and 32 in c; one of cobi."""
    write(tmp_path / "l1_0", {"a": 30, "b": 29, "c": 31}, {"a": 0.8, "b": "", "c": 0.7})
    write(tmp_path / "l1_1", {"a": 32, "b": 31, "c": 33}, {"a": 0.9, "b": 0.5, "c": 0.7})
    write(tmp_path / "cobi_0", {"a": 32, "b": 32, "c": 31}, {"a": 0.86, "b": 0.6, "c": 0.8})
    return tmp_path


def test_means_differences_and_interval_are_those_worked_out_by_hand(runs):
    text = compare(f"l1={runs}/l1_*", f"cobi={runs}/cobi_*", metrics="psnr")
    rows = table(text)
    # seeds' means 30 and 32, of SD √2; differences 1, 2 and -1: mean 2/3, SD √(7/3), t(2) = 4.3027, half 3.7946
    assert rows["PSNR (dB) ↑", "l1"] == ["2", "3", "31.00", "1.41", "–", "–", "–"]
    assert rows["PSNR (dB) ↑", "cobi"] == ["1", "3", "31.67", "–", "+0.667", "-3.128 to +4.461", "2 of 3"]
    assert "| difference from l1 | 95 % interval |" in text and "two-sided 95 % Student t interval" in text


def test_the_interval_is_scipys_paired_one():
    rng = np.random.default_rng(0)
    base = rng.normal(30, 2, 9)
    other = base + rng.normal(0.2, 0.3, 9)
    found = paired_difference(list(base), list(other))
    expected = ttest_rel(other, base).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-10)
    differences = other - base
    by_t = t.interval(0.95, 8, differences.mean(), differences.std(ddof=1) / 3)
    assert (found.low, found.high) == pytest.approx(by_t, rel=1e-10)


def test_patients_are_paired_by_name_whatever_their_order(runs, tmp_path):
    expected = compare(f"l1={runs}/l1_*", f"cobi={runs}/cobi_*")
    write(tmp_path / "again" / "cobi_0", {"c": 31, "a": 32, "b": 32}, {"b": 0.6, "c": 0.8, "a": 0.86})
    assert compare(f"l1={runs}/l1_*", f"cobi={runs}/again/cobi_*") == expected


def test_a_patient_with_a_blank_is_left_out_of_that_metric_in_all_variants(runs):
    text = compare(f"cobi={runs}/cobi_*", f"l1={runs}/l1_*")
    rows = table(text)
    assert rows["LV ↑", "cobi"] == ["1", "2", "0.8300", "–", "–", "–", "–"]
    assert rows["LV ↑", "l1"][:5] == ["2", "2", "0.7750", "0.0354", "-0.05500"]  # b counts in neither seed
    assert rows["PSNR (dB) ↑", "l1"][1] == "3"
    assert "LV leaves out 1 of 3 patients (b), blank or infinite in at least one seed." in text
    assert "Columns without numbers are left out: ssim, ms_ssim, consistency." in text


def test_infinity_counts_as_blank(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name, {"a": 30, "b": "inf", "c": 31})
    text = compare(f"one={tmp_path}/one", f"two={tmp_path}/two")
    assert table(text)["PSNR (dB) ↑", "two"][4:] == ["+0.000", "+0.000 to +0.000", "0 of 2"] and "(b)" in text


def test_a_lower_consistency_residual_is_better(tmp_path):
    write(tmp_path / "one", {"a": 30, "b": 30}, consistency={"a": 2e-3, "b": 4e-3})
    write(tmp_path / "two", {"a": 30, "b": 30}, consistency={"a": 1e-3, "b": 5e-3})
    write(tmp_path / "three", {"a": 30, "b": 30}, consistency={"a": 1e-3, "b": 3e-3})
    words = [f"{name}={tmp_path}/{name}" for name in ("one", "two", "three")]
    rows = table(compare(*words, metrics=["consistency"]))
    assert [rows["consistency residual ↓", name][-1] for name in ("one", "two", "three")] == ["–", "1 of 2", "2 of 2"]
    assert rows["consistency residual ↓", "three"][4] == "-1.000e-03"


def test_the_columns_of_every_folder_count(runs, tmp_path):
    write(tmp_path / "plain", {"a": 30, "b": 30, "c": 30})
    with pytest.raises(ValueError, match=r"plain: patients\.csv or segmentation_patients\.csv must have the column LV"):
        compare(f"plain={tmp_path}/plain", f"l1={runs}/l1_*")
    assert list(table(compare(f"plain={tmp_path}/plain", f"l1={runs}/l1_*", metrics="psnr")))[2:] == [
        ("PSNR (dB) ↑", "plain"),
        ("PSNR (dB) ↑", "l1"),
    ]


def command(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["common", "compare", *words])
    runpy.run_module("common", run_name="__main__", alter_sys=True)


def test_the_command_prints_the_table_and_writes_it(runs, tmp_path, monkeypatch, capsys):
    words = [f"l1={runs}/l1_*", f"cobi={runs}/cobi_*"]
    command(monkeypatch, *words, "--metrics", "psnr,LV", "--out", str(tmp_path / "new" / "t.md"))
    written = (tmp_path / "new" / "t.md").read_text()
    assert capsys.readouterr().out.strip() == written.strip()
    assert written == compare(*words, metrics=("psnr", "LV")) == compare(*words, metrics="psnr, LV")
    with pytest.raises(SystemExit, match=r"^error: l1: must match output folders of evaluations, got none"):
        command(monkeypatch, "l1=nowhere/*", *words[1:])
    with pytest.raises(SystemExit, match=r"--metric: compare has no such option; it has --base, --metrics, --out$"):
        command(monkeypatch, *words, "--metric", "psnr")


def test_a_mistake_in_the_arguments_is_named(runs):
    one, two = f"l1={runs}/l1_*", f"cobi={runs}/cobi_*"
    for words, message in (
        (["l1", two], r"^l1: must be name=GLOB; write for example l1='runs"),
        ([one, "=x"], r"^=x: must be name=GLOB"),
        ([one, "b="], r"^b=: must be name=GLOB"),
        ([one], r"^variants: must be at least two, got l1 alone; add another name=GLOB"),
        ([one, two, one], r"^l1: must name one variant, got two of this name; rename one"),
        (
            [one, "b=nowhere/*"],
            r"^b: must match output folders of evaluations, got none for nowhere/\*; check the glob",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            compare(*words)
    with pytest.raises(ValueError, match=r"l1_0: .* must have the column RV, got psnr, .*, LV; evaluate again, or"):
        compare(one, two, metrics="psnr,RV")
    with pytest.raises(ValueError, match=r"metrics: must name at least one column, got none; choose among psnr, ssim"):
        compare(one, two, metrics=",")


def test_patients_that_differ_are_named(runs, tmp_path):
    write(tmp_path / "other", {"a": 30, "c": 29, "e": 31, "d": 31})
    message = (
        r"other: must have the patients of \S*l1_0, got them without b and besides d, e; evaluate both on the same"
    )
    with pytest.raises(ValueError, match=message):
        compare(f"l1={runs}/l1_*", f"other={tmp_path}/other", metrics="psnr")
    write(tmp_path / "l1_2", {"a": 30, "b": 29})
    with pytest.raises(ValueError, match=r"l1_2: must have the patients of \S*l1_0, got them without c; "):
        compare(f"l1={runs}/l1_*", f"cobi={runs}/cobi_*", metrics="psnr")


def test_fewer_than_two_patients_have_no_interval(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name, {"a": 30})
        write(tmp_path / "blank" / name, {"a": 30, "b": ""})
    for folder in (tmp_path, tmp_path / "blank"):
        with pytest.raises(
            ValueError, match=r"one: must have at least 2 patients with psnr in all seeds, got 1; evalu"
        ):
            compare(f"one={folder}/one", f"two={folder}/two")
    with pytest.raises(ValueError, match="paired_difference: must have at least 2 patients, got 1"):
        paired_difference([1.0], [2.0])


def test_a_table_that_cannot_be_read_is_named(tmp_path):
    folder = tmp_path / "a"
    path = write(folder, {"a": 30, "b": 30}) / "patients.csv"
    for content, message in (
        (None, r"a/patients\.csv: must be a table of an evaluation, got .*No such file.*; evaluate into this folder"),
        (b"\xff\xfe\x00", r"a/patients\.csv: must be a table of an evaluation, got .*utf-8"),
        (b"", r"a/patients\.csv: must have the column method, got none; evaluate again"),
        (b"method,psnr\nSR,3\n", r"a/patients\.csv: must have the column patient, got method, psnr; evaluate again"),
        (b"method,patient,psnr\nbicubic,a,3\n", r"must hold one method beside bicubic and HR, got none; evaluate each"),
        (
            b"method,patient,psnr\nA,a,3\nB,a,3\n",
            r"must hold one method beside bicubic and HR, got A, B; evaluate each",
        ),
        (b"method,patient,psnr\nA,a,3\nA,a,3\n", r"a/patients\.csv: must hold a patient once, got a several times"),
    ):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_variant(f"one={folder}")


def test_text_in_a_column_is_refused_where_it_is_asked_for_and_noted_otherwise(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name, {"a": 30, "b": 31}, {"a": "good", "b": "0.5"})
    words = [f"{name}={tmp_path}/{name}" for name in ("one", "two")]
    with pytest.raises(
        ValueError, match=r"one: LV of a must be a number or blank, got good; evaluate again, or choose"
    ):
        compare(*words, metrics="LV")
    assert "Columns without numbers are left out: ssim, ms_ssim, consistency, LV." in compare(*words)


def test_without_scipy_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    with pytest.raises(
        ValueError, match=r'scipy: must be installed for the interval; run pip install -e "\.\[compare\]"'
    ):
        paired_difference([1.0, 2.0], [2.0, 4.0])


def test_bicubic_and_hr_stand_above_the_variants(runs):
    rows = table(compare(f"l1={runs}/l1_*", f"cobi={runs}/cobi_*", metrics="psnr,LV"))
    assert rows["PSNR (dB) ↑", "bicubic"] == ["–", "3", "1.00", "–", "–", "–", "–"]
    assert rows["LV ↑", "HR"] == ["–", "2", "0.9900", "–", "–", "–", "–"]
    order = [variant for metric, variant in rows if metric == "PSNR (dB) ↑"]
    assert order == ["bicubic", "l1", "cobi"]


@pytest.mark.parametrize("condition", [{"scale": 2}, {"protocol": "paper, chapter 5"}, {"unet_sha256": "0"}])
def test_runs_that_were_evaluated_otherwise_are_refused(runs, condition):
    write(runs / "other", {"a": 32, "b": 32, "c": 31}, {"a": 0.8, "b": 0.5, "c": 0.7}, conditions=condition)
    with pytest.raises(
        ValueError, match=rf"other: {next(iter(condition))} must be that of .*l1_0.*evaluate both alike"
    ):
        compare(f"l1={runs}/l1_*", f"other={runs}/other")
