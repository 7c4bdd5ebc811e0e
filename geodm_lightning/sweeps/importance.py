"""How much of the variation between trials each parameter explains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from geodm_lightning.reporting.figures import WIDTH, shorten
from geodm_lightning.reporting.theme import FONT_SIZE, LIGHT, Theme, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna import Study

FEWEST_TRIALS = 8  # below, an importance says nothing
HEIGHT_OF_BARS = 0.36  # of the pitch


def importances(study: Study) -> dict[str, dict[str, float]]:
    """Return the importance of every parameter by two evaluators.

    fANOVA asks what share of the variance over the whole space a parameter explains by itself;
    PED-ANOVA what distinguishes the better half of the trials from the others.

    Args:
        study: Its finished trials.

    Returns:
        Shares that sum to 1, by evaluator and parameter; empty where fewer than eight trials have
        finished, or all ended alike.

    References:
        Hutter et al., "An efficient approach for assessing hyperparameter importance", 2014.
        Watanabe et al., "PED-ANOVA", 2023.
    """
    from optuna.importance import (
        FanovaImportanceEvaluator,
        PedAnovaImportanceEvaluator,
        get_param_importances,
    )
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < FEWEST_TRIALS or len({trial.value for trial in complete}) == 1:
        return {}
    evaluators = {
        "fANOVA": FanovaImportanceEvaluator(seed=0),
        "PED-ANOVA": PedAnovaImportanceEvaluator(target_quantile=0.5, region_quantile=1.0),
    }
    found = {}
    for name, evaluator in evaluators.items():
        shares = get_param_importances(study, evaluator=evaluator)
        found[name] = {key: float(share) for key, share in shares.items()}
    return found


def importance_bars(shares: Mapping[str, Mapping[str, float]], *, theme: Theme = LIGHT) -> Figure:
    """Draw the importance of every parameter, one bar for each evaluator.

    Args:
        shares: As :func:`importances` returns them, not empty.
        theme: Colours.
    """
    from geodm_lightning.reporting.theme import add_legend

    keys = list(next(iter(shares.values())))
    figure = new_figure(theme, width=WIDTH, height=0.9 + 0.5 * len(keys))
    axes = figure.add_subplot()
    style_axes(axes, theme, grid="x")
    for index, (name, by_key) in enumerate(shares.items()):
        places = [row + HEIGHT_OF_BARS * (index - 0.5) for row in range(len(keys))]
        widths = [100 * by_key[key] for key in keys]
        colour = theme.colours[index]
        axes.barh(places, widths, height=HEIGHT_OF_BARS, color=colour, linewidth=0, label=name)
    axes.set_yticks(range(len(keys)), [shorten(key, 32) for key in keys])
    axes.tick_params(axis="y", labelcolor=theme.ink, labelsize=FONT_SIZE)
    axes.invert_yaxis()
    axes.set_xlabel("share of the explained variation, %")
    add_legend(axes, theme, columns=2)
    return figure
