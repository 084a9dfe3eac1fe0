import pytest

from common.io.formats import FORMATS, SUFFIXES, read_image, stem


def test_stems():
    names = ("x/a.nii.gz", "a.NII", "a.b.nii", "a.txt", "a.mha", "a.b.NHDR", "a.tiff", "a.tif")
    assert [stem(name) for name in names] == ["a", "a", "a.b", "a.txt", "a", "a.b", "a", "a"]


def test_no_suffix_belongs_to_two_formats_and_none_hides_a_longer_one():
    assert len(SUFFIXES) == len(set(SUFFIXES)) == sum(len(known.suffixes) for known in FORMATS.values())
    for place, suffix in enumerate(SUFFIXES):
        assert not any(later.endswith(suffix) for later in SUFFIXES[place + 1 :])


def test_a_file_of_no_known_format_is_refused_with_those_that_are(tmp_path):
    (tmp_path / "a.bmp").write_bytes(b"BM")
    with pytest.raises(
        ValueError, match=r"a\.bmp: must be DICOM or one of \.nii\.gz, .*\.mha, .*\.png.*; convert it first"
    ):
        read_image(tmp_path / "a.bmp")
