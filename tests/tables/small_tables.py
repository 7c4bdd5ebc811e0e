"""A small table and run folders that hold results, written as a run writes them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from geodm_lightning.evaluation.record import StudentResult
from geodm_lightning.evaluation.result import EvaluationResult, save_results
from geodm_lightning.files import write_text
from tests.protocols import SHORT_A

PROTOCOL = replace(SHORT_A, epochs=250, num_students=2)


def small_table() -> dict[str, Any]:
    """Plain values of a table of two columns and two groups, as YAML gives them."""
    rows = {
        "random": {"label": "Random"},
        "dm": {
            "label": "DM",
            "published": {
                "digits_ipc10": {"value": 48.9, "std": 0.6, "source": "paper", "note": "best epoch"}
            },
        },
        "geodm_dm": {"label": "GeoDM (DM)", "result": "geodm", "unpublished": "not public"},
    }
    return {
        "title": "Small & 100 %",
        "notes": ["A note_with [brackets]."],
        "tolerance": 1.0,
        "sources": {"paper": "A paper, Table 1"},
        "columns": {
            "digits_ipc1": {"label": "IPC 1", "dataset": "Digits", "experiment": "digits_ipc1"},
            "digits_ipc10": {"label": "IPC 10", "dataset": "Digits", "experiment": "digits_ipc10"},
        },
        "groups": {
            "dm": {
                "label": "DM, protocol A",
                "overrides": ["strategy=dm", "baselines=[random,base]"],
                "columns": {"digits_ipc1": ["strategy=dm_digits"]},
                "rows": rows,
            },
            "ncfm": {
                "label": "NCFM, protocol C",
                "overrides": ["strategy=ncfm", "baselines=[base]"],
                "left_out": ["digits_ipc1"],
                "rows": {"ncfm": {"label": "NCFM"}},
            },
        },
    }


def small_options(folder: Path, **changes: Any) -> dict[str, Any]:
    """The settings of ``configs/table.yaml``, all files in ``folder``."""
    return {
        "table": small_table(),
        "columns": None,
        "groups": None,
        "only": None,
        "seed": 0,
        "num_seeds": 2,
        "overrides": None,
        "list": False,
        "run": False,
        "estimate": False,
        "reproduce": None,
        "tolerance": None,
        "jobs": 1,
        "launcher": None,
        "run_dir": str(folder / "runs"),
        "cache_dir": str(folder / "pools"),
        "output": str(folder / "tables"),
        **changes,
    }


def result(method: str, *accuracies: float, seed: int = 0, **changes: Any) -> EvaluationResult:
    """A result of one seed whose students reached given accuracies."""
    students = tuple(
        StudentResult(seed, index, f"set {seed}", accuracy, 0.5, 1.0, 100, 2.5, 5066)
        for index, accuracy in enumerate(accuracies)
    )
    fields: dict[str, Any] = {
        "method": method,
        "label": method,
        "dataset": "digits",
        "ipc": 10,
        "num_images": 100,
        "protocol": PROTOCOL,
        "students": students,
        **changes,
    }
    return EvaluationResult(**fields)


def write_run(folder: Path, by_seed: dict[int, list[EvaluationResult]], config: str = "") -> None:
    """Write the results of a run's seeds where a table looks for them."""
    for seed, results in by_seed.items():
        write_text(folder / str(seed) / "config.yaml", config)
        save_results(folder / str(seed) / "results.json", results)
