"""The import contract of setup.cfg holds."""

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports


def test_imports_flow_one_way(monkeypatch):
    monkeypatch.chdir(__import__("pathlib").Path(__file__).resolve().parent.parent)
    assert lint_imports(no_cache=True) == EXIT_STATUS_SUCCESS
