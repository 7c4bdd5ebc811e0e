"""Tables of many runs as LaTeX for booktabs."""

from __future__ import annotations

from geodm_lightning.reporting.study import Study
from geodm_lightning.reporting.study_lines import GridLine, datasets_of, grid, study_notes
from geodm_lightning.reporting.tables import LATEX_ESCAPES

ESCAPES = {
    **LATEX_ESCAPES,
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "−": "$-$",
    "→": r"$\rightarrow$",
    "·": r"$\cdot$",
    "…": r"\ldots{}",
    "λ": r"$\lambda$",
    "ψ": r"$\psi$",
    "ε": r"$\varepsilon$",
    "κ": r"$\kappa$",
    "[": "{[}",  # a bracket after \\ would be read as a length
    "]": "{]}",
}


def latex_text(text: str) -> str:
    r"""Return text with everything escaped that LaTeX would act on.

    Example:
        >>> print(latex_text("50 % of R_1 ± 2"))
        50 \% of R\_1 $\pm$ 2
    """
    return "".join(ESCAPES.get(character, character) for character in " ".join(text.split()))


def study_to_latex(study: Study) -> str:
    """Return a table of many runs as a ``tabular``, its notes below.

    The document needs ``booktabs`` and, where it is wide, ``adjustbox`` or ``landscape``.
    """
    width = len(study.columns) + 1
    spans, rules, left = [], [], 2
    for dataset, count in datasets_of(study.columns):
        spans.append(rf"\multicolumn{{{count}}}{{c}}{{{latex_text(dataset)}}}")
        rules.append(rf"\cmidrule(lr){{{left}-{left + count - 1}}}")
        left += count
    lines = [
        f"% {latex_text(study.title)}",
        rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
        r"\toprule",
        " & ".join(["", *spans]) + r" \\",
        "".join(rules),
        " & ".join(["Method", *(latex_text(column.label) for column in study.columns)]) + r" \\",
        *(_line(line, width) for line in grid(study)),
        r"\bottomrule",
        r"\end{tabular}",
        "",
        r"\par\medskip\footnotesize",
        *(latex_text(note) + r"\par" for note in study_notes(study)),
    ]
    return "\n".join(lines) + "\n"


def _line(line: GridLine, width: int) -> str:
    if line.kind == "group":
        return rf"\midrule \multicolumn{{{width}}}{{l}}{{\emph{{{latex_text(line.label)}}}}} \\"
    if line.kind == "published":
        cells = [rf"\quad {latex_text(line.label)}", *map(latex_text, line.cells)]
        return " & ".join(cells) + r" \\"
    marked = [
        rf"\textbf{{{latex_text(cell)}}}" if best else latex_text(cell)
        for cell, best in zip(line.cells, line.best, strict=True)
    ]
    return " & ".join([latex_text(line.label), *marked]) + r" \\"
