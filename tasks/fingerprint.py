"""Code version of a stage: a hash of what its source says, comments and docstrings aside.

A shard made by other code is made again; a corrected comment remakes nothing.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from functools import cache
from pathlib import Path


@cache
def source_fingerprint(*modules: str) -> str:
    """16 hex digits for the modules named; of a package, all modules below it."""
    digest = hashlib.sha256()
    for name in sorted(modules):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ValueError(f"there is no module {name!r}")
        origin = Path(spec.origin)
        is_package = origin.name == "__init__.py"
        files = sorted(origin.parent.rglob("*.py")) if is_package else [origin]
        for file in files:
            digest.update(f"{name}/{file.name}\n".encode())
            digest.update(_meaning(file.read_text("utf-8")).encode())
    return digest.hexdigest()[:16]


def _meaning(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
