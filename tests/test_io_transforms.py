import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImaged, SaveImaged

from common.io.case import Case
from common.io.transforms import CaseLoadImaged, CaseSaveImaged, output_path
from tests.helpers import oblique, save_nifti

AFFINE = oblique((1, 1, 3))


def test_the_loader_gives_what_monais_loader_gives_and_the_record_beside_it(tmp_path):
    values = np.random.default_rng(0).integers(0, 99, size=(6, 5, 4)).astype(np.int16)
    path = str(save_nifti(tmp_path / "a.nii.gz", values, AFFINE))
    ours = CaseLoadImaged("image")({"image": path})["image"]
    theirs = LoadImaged("image", reader="NibabelReader", ensure_channel_first=True)({"image": path})["image"]
    assert torch.equal(ours.as_tensor(), theirs.as_tensor()) and torch.equal(ours.affine, theirs.affine)
    assert ours.meta["filename_or_obj"] == theirs.meta["filename_or_obj"]
    assert Case.from_meta(ours.meta).source == path and Case.from_meta(theirs.meta) is None


def test_hosts_recognise_reader_and_writer_by_name_and_type():
    assert issubclass(CaseLoadImaged, LoadImaged) and issubclass(CaseSaveImaged, SaveImaged)
    assert "LoadImage" in CaseLoadImaged.__name__ and "SaveImage" in CaseSaveImaged.__name__


def test_an_image_that_a_host_read_is_saved_as_float32(tmp_path):
    image = MetaTensor(
        torch.rand(1, 6, 5, 4) - 0.5, affine=torch.from_numpy(AFFINE), meta={"filename_or_obj": "somewhere/scan.nii.gz"}
    )
    CaseSaveImaged("pred", output_dir=tmp_path, output_postfix="srx4")({"pred": image})
    out = nib.load(tmp_path / "scan_srx4.nii.gz")
    assert out.get_data_dtype() == np.float32
    np.testing.assert_allclose(out.affine, AFFINE, atol=1e-6)
    np.testing.assert_array_equal(out.get_fdata(), image[0].numpy())


def test_folders_are_repeated_below_the_output(tmp_path):
    inputs = tmp_path / "in"
    assert output_path(inputs / "p1/a.nii", ".nii", "out", "srx4", inputs).as_posix() == "out/p1/a_srx4.nii"
    assert output_path(inputs / "a.nii", ".nii", "out", "srx4", inputs / "a.nii").as_posix() == "out/a_srx4.nii"
