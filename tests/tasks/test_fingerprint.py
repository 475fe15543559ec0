from __future__ import annotations

from tasks.fingerprint import _meaning, source_fingerprint


def test_comments_and_docstrings_do_not_count() -> None:
    plain = "def f(x):\n    return x + 1\n"
    told = '"""Module."""\n\ndef f(x):\n    """Add one."""\n    return x + 1  # one\n'
    assert _meaning(plain) == _meaning(told)


def test_a_changed_constant_counts() -> None:
    assert _meaning("x = 1") != _meaning("x = 2")


def test_a_package_stands_for_all_its_modules() -> None:
    assert source_fingerprint("storage") != source_fingerprint("storage.workspace")
    assert len(source_fingerprint("tasks.kernels")) == 16
