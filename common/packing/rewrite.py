"""Names of packages in code and configs, changed to those that they have in a packed bundle.

``common`` becomes ``PACKAGE.common``, ``bundles.METHOD`` becomes ``PACKAGE``: in import lines of Python, in
``_target_`` values and ``$`` expressions of configs, and nowhere else.
"""

from __future__ import annotations

import ast
import re
from typing import Any


def rewrite_code(source: str, bundle: str, package: str, name: str, depth: int = 1) -> str:
    """Python source with its absolute imports of the project changed; relative ones stay.

    Args:
        source: of the file ``name``.
        bundle: whose code it is.
        package: the new one.
        name: for messages.
        depth: of the file in the new package; 1 lies in its folder itself.

    Raises:
        ValueError: an import that has no meaning in a packed bundle.
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source, name)):
        if _reaches_out(node, depth):
            line = getattr(node, "lineno", 0)
            raise ValueError(f"{name}, line {line}: cannot be packed; import this bundle and common only, by name")
        for module in _imported(node):
            row = node.lineno - 1  # type: ignore[attr-defined]
            new = _renamed(module, bundle, package)
            line, found = re.subn(rf"(?<![\w.]){re.escape(module)}(?= import | as )", new or "", lines[row])
            if new is None or found != 1:  # `import common.x` would bind the name common
                raise ValueError(
                    f"{name}, line {row + 1}: cannot be packed; write `from {module} import NAME` on one line, and "
                    "import no other bundle"
                )
            lines[row] = line
    return "".join(lines)


def _reaches_out(node: ast.AST, depth: int) -> bool:
    """Whether a node imports from above the bundle, or by a name that nothing rewrites."""
    if isinstance(node, ast.ImportFrom):
        return node.level > depth
    called = isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__")
    return called and bool(re.match(r"['\"](common|bundles)\b", ast.unparse(node.args[0]) if node.args else ""))  # type: ignore[attr-defined]


def _imported(node: ast.AST) -> list[str]:
    """Modules of the project that a node imports by their absolute name."""
    if isinstance(node, ast.ImportFrom):
        modules = [] if node.level else [node.module or ""]
    else:
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    return [module for module in modules if module.split(".")[0] in ("common", "bundles")]


def _renamed(module: str, bundle: str, package: str) -> str | None:
    """The new name of a module of the project; None where it will not be there."""
    own = f"bundles.{bundle}"
    if module == "common" or module.startswith("common."):
        return f"{package}.{module}"
    return package + module[len(own) :] if module == own or module.startswith(own + ".") else None


def rewrite_config(config: Any, bundle: str, package: str, name: str) -> Any:
    """A config, read from the file ``name``, with its ``_target_`` values and ``$`` expressions changed.

    Raises:
        ValueError: it refers to another bundle.
    """
    if isinstance(config, list):
        return [rewrite_config(item, bundle, package, name) for item in config]
    if isinstance(config, dict):
        return {key: _rewrite_value(key, value, bundle, package, name) for key, value in config.items()}
    return _rewrite_value("", config, bundle, package, name)


def _rewrite_value(key: str, value: Any, bundle: str, package: str, name: str) -> Any:
    if not isinstance(value, str):
        return rewrite_config(value, bundle, package, name) if isinstance(value, (dict, list)) else value
    if key.split("#")[-1] == "_target_" and value.split(".")[0] in ("common", "bundles"):
        new = _renamed(value, bundle, package)
    elif value.startswith("$"):
        new = _rewrite_expression(value, bundle, package)
    else:
        return value
    if new is None or re.search(r"(?<![\w.])bundles\.", new):
        raise ValueError(f"{name}: {value!r} cannot be packed: it refers to another bundle; name this one's own code")
    return new


def _rewrite_expression(text: str, bundle: str, package: str) -> str:
    network = f"find_spec('bundles.{bundle}.network').origin"  # its folder is the bundle's; in a zip, one below that
    text = text.replace(network, f"os.path.dirname(find_spec('{package}.network').origin)")
    text = re.sub(r"(?<![\w.@#/])common(?=\.[A-Za-z_]| import )", f"{package}.common", text)
    return re.sub(rf"(?<![\w.])bundles\.{bundle}(?=\.|\b)", package, text)
