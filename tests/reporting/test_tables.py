"""Tables: numbers by hand, the conditions they were reached under, refusals."""

import re
from dataclasses import replace

import pytest
from rich.console import Console

from geodm_lightning.evaluation.merging import merge_results
from geodm_lightning.evaluation.supervision import Supervision
from geodm_lightning.reporting.notes import describe_protocol, describe_supervision
from geodm_lightning.reporting.tables import build_table, to_latex, to_markdown, to_terminal
from geodm_lightning.types import InputError

LIA = Supervision("lia", "LIA", ce=0.025, mse=1.0, teachers="aligned")
OTM = replace(LIA, name="lia_otm", label="LIA + OTM", transport=0.001)


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


@pytest.fixture
def taught(make_result):
    """Three sets under three supervisions, one of them not under all."""
    hard = [make_result("DM", 0.5, 0.7), make_result("OTG", 0.6, schedule_share=0.5)]
    whole = make_result("Whole set", 0.9, ipc=None)
    soft = [
        make_result(label, mean, supervision=LIA, teachers=("a", "b"), **options)
        for label, mean, options in (("DM", 0.7, {}), ("OTG", 0.8, {"schedule_share": 0.5}))
    ]
    matched = make_result("OTG", 0.85, supervision=OTM, teachers=("a", "b"), schedule_share=0.5)
    return [*hard, whole, *soft, matched]


def test_supervisions_are_the_columns_of_a_grid(taught):
    table = build_table(taught)
    assert table.headings == (
        "Method", "Images per class", "Hard labels, %", "LIA, %", "LIA + OTM, %",
    )  # fmt: skip
    assert table.rows == (
        ("DM", "10", "60.0 ± 14.1", "70.0", "–"),
        ("OTG", "10", "60.0", "80.0", "85.0"),
        ("Whole set", "all", "90.0", "–", "–"),
    )


def test_grid_says_what_students_learned_from_and_how_often(taught):
    notes = build_table(taught).notes
    assert "Hard labels: cross-entropy to the classes." in notes
    assert (
        "LIA: 0.025 × cross-entropy to the classes + 1 × squared difference of logits; "
        "teachers: as many as the images per class ask for (a, b)." in notes
    )
    assert any("0.001 × transport between logits at temperature 2" in note for note in notes)
    assert "Each accuracy: 2 students, 1 seed or 1 students, 1 seed." in notes
    assert sum("of the published iterations" in note for note in notes) == 1
    assert sum("a budget of our choice" in note for note in notes) == 1


def test_grid_tells_the_spread_of_seeds_by_column(make_result):
    results = [
        merge_results([make_result("DM", low, **s), make_result("DM", low + rise, seed=1, **s)])
        for low, rise, s in ((0.5, 0.1, {}), (0.6, 0.2, {"supervision": LIA}))
    ]
    # 0.1 / sqrt(2) and 0.2 / sqrt(2)
    expected = "Standard deviation between the means of the seeds: DM 7.1 / 14.1."
    assert expected in build_table(results).notes


@pytest.fixture
def judged(make_result, protocol):
    """Two sets under two architectures, one of them under two supervisions as well."""
    other = {
        "protocol": replace(protocol, network="vit", network_options={}),
        "architecture": "vit",
        "architecture_label": "ViT",
    }
    return [
        make_result("DM", 0.5, 0.7),
        make_result("DM", 0.4, **other),
        make_result("OTG", 0.6),
        make_result("OTG", 0.7, supervision=LIA, teachers=("a",)),
        make_result("OTG", 0.8, supervision=LIA, teachers=("a",), **other),
    ]


def test_architectures_are_the_columns_and_supervisions_the_rows(judged):
    table = build_table(judged)
    assert table.headings == ("Method", "Images per class", "convnet, %", "ViT, %")
    assert table.rows == (
        ("DM", "10", "60.0 ± 14.1", "40.0"),
        ("OTG", "10", "60.0", "–"),
        ("OTG · LIA", "10", "70.0", "80.0"),
    )
    assert "Other architectures under the same protocol: ViT is vit." in table.notes


def test_another_network_is_another_architecture_or_another_protocol(judged, make_result):
    """The network may differ between architectures only, every other number nowhere."""
    unnamed = replace(judged[1], architecture="", architecture_label="", method="X", label="X")
    with pytest.raises(InputError, match="evaluate both under one protocol"):
        build_table([judged[0], unnamed])
    longer = replace(judged[1], protocol=replace(judged[1].protocol, epochs=26))
    with pytest.raises(InputError, match="evaluate both under one protocol"):
        build_table([judged[0], longer])


def test_intervals_are_over_sets_where_there_are_several(make_result):
    """One set: over its students. Several: over the means of the seeds, whatever the students."""
    one = make_result("DM", 0.5, 0.6, 0.7)
    several = merge_results([make_result("GeoDM", 0.5, 0.6), make_result("GeoDM", 0.54, seed=1)])
    notes = build_table([one, several]).notes
    # 60 ± 4.3027 · 10 / sqrt(3); 54.5 ± 12.706 · 0.70711 / sqrt(2)
    assert any("over the students of one set" in n and "DM 35.2 to 84.8." in n for n in notes)
    assert any("over the sets of the seeds: GeoDM 48.1 to 60.9." in note for note in notes)
    assert not any("intervals" in note for note in build_table([make_result("DM", 0.5)]).notes)


def test_validation_and_test_images_stand_in_no_one_table(make_result):
    held_out = make_result("GeoDM", 0.5, provenance={"tested_on": "validation"})
    with pytest.raises(InputError, match="DM was tested on test images, GeoDM on validation"):
        build_table([make_result("DM", 0.5), held_out])


def test_a_table_says_which_rows_are_not_in_float32(make_result):
    plain, rounded = (
        make_result(label, 0.5, provenance={"precision": precision})
        for label, precision in (("DM", "32-true"), ("GeoDM", "bf16-mixed"))
    )
    assert "Trained in bf16-mixed: GeoDM." in build_table([plain, rounded]).notes
    assert not any("Trained in" in n for n in build_table([plain, make_result("M3D", 0.5)]).notes)


def test_one_supervision_is_a_plain_table_that_names_it(make_result):
    table = build_table([make_result("DM", 0.5, supervision=LIA, teachers=("a",))])
    assert table.rows == (("DM", "10", "50.0", "1", "1"),)
    assert any(note.startswith("LIA: 0.025 ×") for note in table.notes)


def test_grid_in_every_format(taught):
    table = build_table(taught)
    lines = to_markdown(table).splitlines()
    assert "| OTG | 10 | 60.0 | 80.0 | 85.0 |" in lines
    assert {line.count("|") for line in lines if line.startswith("|")} == {6}
    latex = to_latex(table)
    assert r"\begin{tabular}{lrrrr}" in latex
    assert r"DM & 10 & 60.0 $\pm$ 14.1 & 70.0 & – \\" in latex
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(to_terminal(table))
    assert "LIA + OTM, %" in captured.get()


def test_grid_refuses_one_cell_twice_and_columns_of_one_name(make_result, taught):
    with pytest.raises(InputError, match="OTG · LIA is there twice; merge its seeds first"):
        build_table([*taught, make_result("OTG", 0.1, supervision=LIA)])
    twin = make_result("OTG", 0.1, supervision=replace(OTM, label="LIA"))
    with pytest.raises(InputError, match="two columns have one label in Hard labels, LIA"):
        build_table([*taught, twin])


def test_protocol_tells_its_schedule_its_average_and_its_views(protocol):
    protocol = replace(
        protocol, optimizer="adamw", momentum=0.0, milestones=(), schedule="cosine", smoothing=2.0,
        ema_decay=0.99, decay_vectors=False, resolution=6, augmentation="none",
        views={"crop_scale": (0.25, 1.0), "cutmix_probability": 0.5},
    )  # fmt: skip
    text = describe_protocol(protocol)
    for part in (
        "convnet at 6 px", "weight decay 0.0005 of matrices", "half cosine over 2 times the",
        "average of the weights with decay 0.99", "views of 0.25 to 1 of the area, mirrored where",
        "CutMix with probability 0.5",
    ):  # fmt: skip
        assert part in text


def test_supervision_by_divergence_tells_its_temperature():
    kl = Supervision("kl", "KL", ce=0.0, kl=1.0, kl_temperature=4.0, teachers="all")
    assert describe_supervision(kl) == "1 × divergence at temperature 4; teachers: all"
