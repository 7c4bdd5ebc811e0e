"""Tables: numbers by hand, the conditions they were reached under, refusals."""

import re
from dataclasses import replace

import pytest
from rich.console import Console

from geodm_lightning.evaluation.result import merge_results
from geodm_lightning.reporting.tables import build_table, to_latex, to_markdown, to_terminal
from geodm_lightning.types import InputError


@pytest.fixture
def table(make_result, protocol):
    return build_table(
        [
            make_result("DM", 0.5, 0.6, 0.7),
            make_result("GeoDM", 0.8456, schedule_share=0.025),
            make_result(
                "Whole set", 0.9, ipc=None, protocol=replace(protocol, whole_steps=900)
            ),
        ]
    )  # fmt: skip


def test_rows_by_hand(table):
    assert table.rows[0] == ("DM", "10", "60.0 ± 10.0", "3", "1")
    assert table.rows[1] == ("GeoDM", "10", "84.6", "1", "1")
    assert table.rows[2] == ("Whole set", "all", "90.0", "1", "1")


def test_notes_state_protocol_repetitions_and_shares(table):
    notes = "\n".join(table.notes)
    assert "Protocol A: convnet, 25 epochs of batches of 256, sgd at 0.01, momentum 0.9" in notes
    assert "between the means of the seeds" not in notes
    assert "Students: 2.5 % of the published epochs" in notes
    assert "GeoDM: 2.5 % of the published iterations" in notes
    assert "DM: 2.5" not in notes.replace("GeoDM", "")
    assert "Whole set: 900 optimiser steps" in notes


def test_seeds_have_a_deviation_of_their_own(make_result):
    merged = merge_results([make_result("DM", 0.5, 0.5), make_result("DM", 0.6, 0.6, seed=1)])
    table = build_table([merged])
    # over students sqrt(4 · 0.05² / 3) = 5.8, over the two means 0.1 / sqrt(2) = 7.1
    assert table.rows[0] == ("DM", "10", "55.0 ± 5.8", "4", "2")
    assert "between the means of the seeds: DM 7.1." in "\n".join(table.notes)


def test_refuses_mixed_protocols(make_result, protocol):
    other = make_result("GeoDM", 0.5, protocol=replace(protocol, epochs=30))
    with pytest.raises(InputError, match="evaluate both under one protocol"):
        build_table([make_result("DM", 0.5), other])


def test_refuses_mixed_data_sets_and_nothing(make_result):
    with pytest.raises(InputError, match="on digits, GeoDM on mnist"):
        build_table([make_result("DM", 0.5), make_result("GeoDM", 0.5, dataset="mnist")])
    with pytest.raises(InputError, match="no results"):
        build_table([])


def test_markdown_has_one_line_per_row(table):
    lines = to_markdown(table).splitlines()
    assert "| DM | 10 | 60.0 ± 10.0 | 3 | 1 |" in lines
    rows = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in rows} == {6}
    assert len(rows) == 5


def test_markdown_cannot_be_broken_by_a_label(make_result):
    text = to_markdown(build_table([make_result("a|b\nc*d<e", 0.5)]))
    row = next(line for line in text.splitlines() if "50.0" in line)
    assert row == r"| a\|b c\*d\<e | 10 | 50.0 | 1 | 1 |"


def test_latex_is_escaped_and_balanced(make_result):
    text = to_latex(build_table([make_result("100%_R&D {x}\\", 0.5, 0.6)]))
    row = next(line for line in text.splitlines() if "55.0" in line)
    assert row == r"100\%\_R\&D \{x\}\textbackslash{} & 10 & 55.0 $\pm$ 7.1 & 2 & 1 \\"
    bare = re.sub(r"\\.", "", text)
    assert bare.count("{") == bare.count("}")
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1


def test_terminal_shows_labels_as_they_are(make_result):
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(to_terminal(build_table([make_result("[red]x[/red]", 0.5)])))
    assert "[red]x[/red]" in captured.get()
    assert "50.0" in captured.get()
