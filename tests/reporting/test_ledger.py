"""The cost of a row is told by component, and what a skipped factor saved."""

import pytest

from geodm_lightning.ledger import COMPONENTS
from geodm_lightning.reporting.ledger import HEADINGS, build_ledger, to_markdown

MIB = 2**20


def cost(*milliseconds, peak=8, **more):
    seconds = dict(zip(COMPONENTS, (value / 1000 for value in milliseconds), strict=True))
    return {
        "seconds": 1.0,
        "seconds_per_iteration": sum(seconds.values()),
        "component_seconds_per_iteration": seconds,
        "component_peak_bytes": dict.fromkeys(COMPONENTS, peak * MIB),
        **more,
    }


@pytest.fixture
def results(make_result):
    stretches = [
        {"from": "start", "seconds_per_iteration": {"geometry": 0.004, "transport": 0.006}},
        {
            "from": "iteration 40, without spherical",
            "seconds_per_iteration": {"geometry": 0.003, "transport": 0.004},
        },
    ]
    return [
        make_result("Random", 0.5),
        make_result("DM", 0.6, costs={"0": cost(1, 20, 2, 0, 1)}),
        make_result(
            "GeoDM",
            0.7,
            costs={
                "0": cost(1, 20, 4, 6, 1, stretches=stretches),
                "1": cost(1, 20, 2, 2, 1, peak=16),
            },
        ),
    ]


def test_rows_are_means_over_seeds(results):
    ledger = build_ledger(results)
    assert [row[0] for row in ledger.rows] == ["DM", "GeoDM"]
    assert ledger.rows[1][1:] == ("29.0", "1.0", "20.0", "3.0", "4.0", "1.0", "24.1 %")
    assert ledger.rows[0][-1] == "8.3 %"
    assert ledger.memory[1] == ("GeoDM", *["12.0"] * len(COMPONENTS))


def test_what_a_skipped_factor_saved_is_told(results):
    (note,) = [n for n in build_ledger(results).notes if "without spherical" in n]
    assert "from iteration 40, without spherical" in note
    assert "7.0 instead of 10.0 ms" in note


def test_markdown_has_a_column_per_component(results):
    lines = to_markdown(build_ledger(results)).splitlines()
    assert lines[0] == f"| {' | '.join(HEADINGS)} |"
    assert all(line.count("|") == lines[0].count("|") for line in lines[1:4])


def test_nothing_learned_nothing_told(make_result):
    assert build_ledger([make_result("Random", 0.5)]) is None
