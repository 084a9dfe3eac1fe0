"""Names of packages, changed for a packed bundle: in imports, targets and expressions, and nowhere else."""

import pytest

from common.packing.rewrite import rewrite_code, rewrite_config

NEW = "sr_rdst_0123abcd"


def code(source: str) -> str:
    return rewrite_code(source, "rdst", NEW, "a.py")


def config(value):
    return rewrite_config(value, "rdst", NEW, "a.json")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from common.blocks.swin import A\n", f"from {NEW}.common.blocks.swin import A\n"),
        ("from common import errors\n", f"from {NEW}.common import errors\n"),
        ("from common.a import (\n    common,\n)\n", f"from {NEW}.common.a import (\n    common,\n)\n"),
        ("import common.errors as e\n", f"import {NEW}.common.errors as e\n"),
        ("from bundles.rdst.network import RDST\n", f"from {NEW}.network import RDST\n"),
        ("from bundles.rdst import network\n", f"from {NEW} import network\n"),
        ("def f():\n    from common.a import b\n", f"def f():\n    from {NEW}.common.a import b\n"),
        ("from . import b\nfrom .errors import a\n", None),
        ("import commons\nfrom commonplace.x import y\n", None),
        ('x = "from common.a import b"  # from common.a import b\nlogger = "common.run"\n', None),
    ],
)
def test_only_absolute_imports_of_the_project_change(before, after):
    assert code(before) == (after or before)


@pytest.mark.parametrize(
    "source", ["import common\n", "import common.errors\n", "from bundles.other.network import A\n", "import bundles\n"]
)
def test_an_import_without_meaning_in_a_packed_bundle_is_refused(source):
    with pytest.raises(ValueError, match=r"a\.py, line 2: cannot be packed; write `from .* import NAME`"):
        code("\n" + source)


@pytest.mark.parametrize(
    ("source", "depth"),
    [
        ("from .. import a\n", 1),
        ("from ...x import a\n", 2),
        ('import importlib\nimportlib.import_module("common.errors")\n', 1),
        ("__import__('bundles.rdst.network')\n", 1),
    ],
)
def test_what_reaches_out_of_the_bundle_is_refused(source, depth):
    with pytest.raises(
        ValueError, match=r"a\.py, line \d: cannot be packed; import this bundle and common only, by name"
    ):
        rewrite_code(source, "rdst", NEW, "a.py", depth)
    assert rewrite_code("from ..errors import a\n", "rdst", NEW, "a.py", 2) == "from ..errors import a\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"_target_": "common.run.run_cases"}, {"_target_": f"{NEW}.common.run.run_cases"}),
        (
            {"validate#best#_target_": "common.handlers.KeepLast"},
            {"validate#best#_target_": f"{NEW}.common.handlers.KeepLast"},
        ),
        ({"_target_": "bundles.rdst.network.RDST"}, {"_target_": f"{NEW}.network.RDST"}),
        (
            {"_target_": "Compose", "a": [{"_target_": "common.x.Y"}]},
            {"_target_": "Compose", "a": [{"_target_": f"{NEW}.common.x.Y"}]},
        ),
        ({"a": "$common.x.f(@b) + bundles.rdst.network.N"}, {"a": f"${NEW}.common.x.f(@b) + {NEW}.network.N"}),
        (["$import common.x", "$from common import y"], [f"$import {NEW}.common.x", f"$from {NEW}.common import y"]),
        (
            "$os.path.dirname(find_spec('bundles.rdst.network').origin)",
            f"$os.path.dirname(os.path.dirname(find_spec('{NEW}.network').origin))",
        ),
        ({"_target_": "commonplace.X", "_comment": "common.x, bundles.rdst", "common.x": 1}, None),
        ({"a": "$@common.x + my.common.x", "_target_": "torch.nn.Identity", "b": None, "c": 1.5, "d": True}, None),
    ],
)
def test_only_targets_and_expressions_of_a_config_change(before, after):
    assert config(before) == (before if after is None else after)


@pytest.mark.parametrize("value", [{"_target_": "bundles.other.network.N"}, {"a": ["$bundles.other.network.N()"]}])
def test_a_config_that_refers_to_another_bundle_is_refused(value):
    with pytest.raises(ValueError, match=r"a\.json: .*bundles\.other.* cannot be packed: it refers to another bundle"):
        config(value)
