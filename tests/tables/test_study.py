"""A table says what its results say: no more, nothing else, and marks a lead only beyond chance."""

import json

import pytest

from geodm_lightning.reporting.study_lines import detail_rows, grid, study_notes
from geodm_lightning.tables.plan import read_plan
from geodm_lightning.tables.published import judge, tolerance_of
from geodm_lightning.tables.study import build_study, measured
from geodm_lightning.tables.table import write_table
from geodm_lightning.types import InputError
from tests.tables.small_tables import result, small_options, small_table, write_run

COSTS = {"seconds_per_iteration": 0.5, "seconds": 50.0, "peak_memory_bytes": 2_000_000_000}


@pytest.fixture
def plan(tmp_path):
    """Three seeds of digits_ipc10: GeoDM always about five points ahead, DM far from random."""
    plan = read_plan("small", small_options(tmp_path, num_seeds=3))
    by_seed = {}
    for seed in plan.seeds:
        own = {"seed": seed, "schedule_share": 0.1}
        by_seed[seed] = [
            result("random", 0.30, 0.32, seed=seed),
            result("dm", 0.48 + 0.01 * seed, 0.50, costs={str(seed): COSTS}, **own),
            result("geodm", 0.531 + 0.01 * seed, 0.55 + 0.002 * (seed == 1), **own),
        ]
    write_run(plan.run_dir / "digits_ipc10_dm", by_seed)
    return plan


def study_of(plan):
    return build_study(plan.table, [plan.state_of(run, strict=False) for run in plan.runs])


def cell_of(study, key):
    return {f"{c.key}/{r.key}": cell for _, r, c, cell in study.cells()}[key]


def test_a_cell_holds_mean_deviation_and_interval_of_its_result(plan):
    merged = plan.state_of(plan.runs[1], strict=False).results["dm"]
    ours = cell_of(study_of(plan), "digits_ipc10/dm").ours
    assert ours.value == pytest.approx(100 * merged.mean)
    assert ours.std == pytest.approx(100 * merged.std)
    assert ours.interval == pytest.approx([100 * x for x in merged.interval()[:2]])
    assert (ours.seeds, ours.students) == (3, 6)
    assert (ours.iterations, ours.epochs) == (0.1, 0.25)
    assert (ours.protocol, ours.digest) == ("A", merged.protocol.digest())


def test_what_is_missing_is_a_dash_and_what_is_published_stands_below_ours(plan):
    lines = [(line.kind, line.label, *line.cells) for line in grid(study_of(plan))]
    assert lines[0] == ("group", "DM, protocol A")
    assert lines[2] == ("ours", "DM", "–", "49.5 ± 0.8")
    assert lines[3] == ("published", "published", "–", "48.9 ± 0.6 [1]")
    assert ("published", "published", "not public", "") in lines
    assert ("ours", "NCFM", "–", "–") in lines
    assert "[1] A paper, Table 1; best epoch." in study_notes(study_of(plan))


def test_the_difference_is_ours_minus_the_published(plan):
    (line,) = [row for row in detail_rows(study_of(plan)) if row[0] == "digits_ipc10/dm"]
    assert line[4:6] == ("48.9 ± 0.6", "+0.6")
    assert line[6:8] == ("10 %", "25 %")
    notes = study_notes(study_of(plan))
    assert "Share of the published iterations: 10 % by DM, GeoDM (DM)." in notes
    assert any("(25 %) in digits_ipc10" in note for note in notes)


def test_a_lead_is_marked_only_where_the_paired_test_tells_it_from_chance(plan, tmp_path):
    assert cell_of(study_of(plan), "digits_ipc10/geodm_dm").is_best  # always ahead by as much
    noisy = read_plan("small", small_options(tmp_path / "noisy", num_seeds=3))
    gaps = {0: 0.2, 1: -0.1, 2: 0.05}  # ahead on average, not beyond chance
    write_run(
        noisy.run_dir / "digits_ipc10_dm",
        {
            s: [result("dm", 0.5, seed=s), result("geodm", 0.5 + gap, seed=s)]
            for s, gap in gaps.items()
        },
    )
    study = study_of(noisy)
    assert cell_of(study, "digits_ipc10/geodm_dm").ours is not None
    assert not any(cell.is_best for _, _, _, cell in study.cells())


def test_costs_are_means_over_seeds_in_seconds_and_gigabytes(plan):
    merged = plan.state_of(plan.runs[1], strict=False).results
    assert measured(merged["dm"], "seconds").value == 0.5
    assert measured(merged["dm"], "memory").value == 2.0
    assert measured(merged["random"], "seconds") is None  # nothing was learned


def test_a_refused_run_is_a_dash_and_is_named(plan):
    (plan.run_dir / "digits_ipc10_dm" / "0" / "results.json").write_text("[]]")
    study = study_of(plan)
    assert cell_of(study, "digits_ipc10/dm").ours is None
    assert any(note.startswith("Refused: digits_ipc10_dm: damaged") for note in study_notes(study))


def test_the_files_of_a_table_agree(plan):
    write_table(plan)
    folder = plan.output
    assert {path.name for path in folder.iterdir()} == {
        f"table.{ending}" for ending in ("md", "tex", "json", "png", "html")
    }
    saved = json.loads((folder / "table.json").read_text())
    (cell,) = [cell for cell in saved["cells"] if cell["cell"] == "digits_ipc10/dm"]
    assert cell["difference"] == pytest.approx(cell["ours"]["value"] - 48.9)
    assert cell["published"]["source"] == "A paper, Table 1"
    for name in ("table.md", "table.tex", "table.html"):
        assert "49.5" in (folder / name).read_text()


def test_rendering_twice_changes_nothing(plan):
    write_table(plan)
    before = {path.name: path.read_bytes() for path in plan.output.iterdir()}
    write_table(plan)
    assert {path.name: path.read_bytes() for path in plan.output.iterdir()} == before


@pytest.mark.parametrize(
    ("published", "asked", "expected"),
    [
        ({"value": 50.0, "source": "paper"}, None, 1.0),
        ({"value": 50.0, "std": 0.2, "source": "paper"}, None, 1.0),
        ({"value": 50.0, "std": 0.9, "source": "paper"}, None, 1.8),
        ({"value": 50.0, "std": 0.9, "source": "paper", "tolerance": 0.3}, None, 0.3),
        ({"value": 50.0, "std": 0.9, "source": "paper", "tolerance": 0.3}, 4.0, 4.0),
    ],
)
def test_the_tolerance_is_asked_for_or_stated_or_two_deviations(
    tmp_path, published, asked, expected
):
    options = small_options(tmp_path)
    options["table"]["groups"]["dm"]["rows"]["dm"]["published"] = {"digits_ipc10": published}
    table = read_plan("small", options).table
    assert tolerance_of(table.cell("digits_ipc10/dm"), table, asked=asked)[0] == expected


def test_what_nobody_published_or_verified_cannot_be_judged(tmp_path):
    options = small_options(tmp_path)
    own = {"value": 50.0, "source": "paper", "verified": False}
    options["table"]["groups"]["dm"]["rows"]["dm"]["published"] = {"digits_ipc10": own}
    table = read_plan("small", options).table
    for key, message in (
        ("digits_ipc10/geodm_dm", "not public"),
        ("digits_ipc10/random", "nothing is published"),
        ("digits_ipc10/dm", "tolerance of yours"),
    ):
        with pytest.raises(InputError, match=message):
            tolerance_of(table.cell(key), table, asked=None)


@pytest.mark.parametrize(
    ("published", "holds"), [(50.4, True), (48.6, True), (48.4, False), (50.6, False)]
)
def test_reproduced_is_within_the_tolerance_on_either_side(plan, published, holds):
    merged = plan.state_of(plan.runs[1], strict=False).results["dm"]  # 49.5
    verdict = judge(measured(merged, "accuracy"), published, tolerance=1.0, rule="test")
    assert verdict.is_reproduced is holds
    assert small_table()["tolerance"] == 1.0
