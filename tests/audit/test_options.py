"""Bad options of the stages score and audit are refused with one line, before any work."""

import pytest

from geodm_lightning.audit.options import AuditOptions, ScoreOptions, check_options
from geodm_lightning.settings import check_settings
from geodm_lightning.types import InputError
from tests.experiment import compose_settings

REFUSED = {
    "scores.rows": ("some", "unknown scores.rows 'some'; choose one of own, all"),
    "scores.weight": (1.01, "scores.weight must lie between 0 and 1, got 1.01"),
    "scores.augmentation_weight": (True, "scores.augmentation_weight must lie between 0 and 1"),
    "scores.rates": ([], r"scores.rates must be different positive numbers, .* got \[\]"),
    "scores.rates ": ([1.0, 1.0], r"got \[1.0, 1.0\]"),
    "scores.rates  ": ([0.0, 1.0], r"got \[0.0, 1.0\]"),
    "scores.rates   ": (["high"], r"got \['high'\]"),
    "scores.validation": (0.0, "scores.validation must lie between 0 and 1, got 0.0; the rate is"),
    "scores.validation ": (1, "never chosen on test images"),
    "scores.students_per_rate": (0, "must be a whole number of at least 1, got 0"),
    "scores.epochs": (3, "unknown key 'scores.epochs'; choose among name, rows, weight"),
    "audit.features": ("inception", "unknown audit.features 'inception'; choose one of trained"),
    "audit.neighbours": (0, "audit.neighbours must be a whole number of at least 1, got 0"),
    "audit.neighbours ": (2.5, "audit.neighbours must be a whole number"),
    "audit.references": (1, "audit.references must be a whole number of at least 2, got 1"),
    "audit.shown": (1, "audit.shown must be a whole number of at least 2, got 1"),
    "audit.max_steps": (0, "audit.max_steps must be a whole number of at least 1, got 0"),
    "audit.real_per_class": (2, "audit.real_per_class must be a whole number of at least 3"),
    "audit.copy": (1.0, "audit.copy must lie between 0 and 1, got 1.0"),
}


@pytest.fixture(scope="module")
def settings():
    return compose_settings()


@pytest.mark.parametrize("key", REFUSED)
def test_a_bad_option_is_named(settings, key):
    value, message = REFUSED[key]
    group, name = key.strip().split(".")
    changed = {**settings, group: {**settings[group], name: value}}
    with pytest.raises(InputError, match=message) as caught:
        check_settings(changed)
    assert "\n" not in str(caught.value)


def test_a_missing_option_is_named(settings):
    scores = {key: value for key, value in settings["scores"].items() if key != "rates"}
    with pytest.raises(InputError, match=r"scores.rates is missing; see configs/scores"):
        check_options({**settings, "scores": scores})


def test_what_the_configurations_say_is_what_is_heard(settings):
    scores, audit = ScoreOptions.from_settings(settings), AuditOptions.from_settings(settings)
    assert scores.rates == tuple(settings["scores"]["rates"])
    assert (scores.weight, scores.augmentation_weight) == (0.5, 0.5)  # DD-Ranking
    assert (audit.neighbours, audit.max_steps) == (5, 300)
