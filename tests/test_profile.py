import re

import pytest

from common.profile import profile


def test_the_figures_of_rdst_e_are_those_of_table_5_5():
    text = profile("rdst", repeats=1)
    for figure in ("2,379,241", "3.53 G", "3.83 G", "40 x 32"):
        assert figure in text
    assert float(re.search(r"planes a second on cpu +([\d.]+)", text).group(1)) > 0.1
    assert 10 < float(re.search(r"memory of a plane +(\d+) MB", text).group(1)) < 500


def test_an_unknown_bundle_is_named():
    with pytest.raises(ValueError, match=r"bundle: must be one of .*rdst, .*got rdts"):
        profile("rdts")
