"""A table as LaTeX: every row as wide as the head, nothing left that LaTeX would act on."""

import re

from geodm_lightning.reporting.latex import latex_text, study_to_latex
from geodm_lightning.reporting.study import (
    Reported,
    Study,
    StudyCell,
    StudyColumn,
    StudyGroup,
    StudyRow,
)

HOSTILE = r"50 % & $x$ #1_{a}^2 ~ \input{x} [1] < >"


def study() -> Study:
    columns = tuple(
        StudyColumn(f"{dataset}_{k}", f"IPC {k} {HOSTILE}", dataset, "accuracy")
        for dataset in ("A", "B")
        for k in (1, 10)
    )
    cells = {c.key: StudyCell(None, Reported(48.9, 0.6, HOSTILE, HOSTILE)) for c in columns}
    rows = (StudyRow("dm", HOSTILE, "", cells), StudyRow("geodm", "GeoDM", "not public", {}))
    return Study("t", HOSTILE, (HOSTILE,), columns, (StudyGroup("g", HOSTILE, rows),), (HOSTILE,))


def unescaped(text: str, character: str) -> int:
    return len(re.findall(rf"(?<!\\){re.escape(character)}", text))


def test_every_row_is_as_wide_as_the_head():
    body = study_to_latex(study()).split(r"\begin{tabular}{lrrrr}")[1].split(r"\end{tabular}")[0]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    widths = []
    for row in rows:
        spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", row)]
        widths.append(unescaped(row, "&") + 1 + sum(spans) - len(spans))
    assert len(rows) == 7  # two of head, a group, two rows with what is published below each
    assert set(widths) == {5}


def test_braces_balance_and_nothing_is_a_comment_or_a_command_of_others():
    text = study_to_latex(study())
    assert unescaped(text, "{") == unescaped(text, "}")
    for line in text.splitlines()[1:]:
        assert unescaped(line, "%") == 0
        assert unescaped(line, "#") == 0
        assert unescaped(line, "_") == 0
    assert r"\input" not in text
    assert text.splitlines()[0].startswith("% ")


def test_a_bracket_is_never_read_as_an_argument_of_a_line_break():
    assert latex_text("[1] a") == "{[}1{]} a"


def test_line_breaks_of_a_text_end_no_comment():
    assert "\n" not in latex_text("one\ntwo")
