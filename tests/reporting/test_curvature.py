"""The geometry a row ended with stands beside its accuracy."""

from geodm_lightning.reporting.curvature import geometry_rows, to_markdown


def test_means_over_seeds_and_dashes_where_a_factor_is_missing(make_result):
    states = [
        {"curvature/spherical": 1.0, "weight/euclidean": 0.25, "weight/spherical": 0.75},
        {"curvature/spherical": 3.0, "weight/euclidean": 0.35, "weight/spherical": 0.65},
    ]
    results = [
        make_result("Random", 0.5),
        make_result("DM", 0.6, geometries={"0": {"weight/euclidean": 1.0}}),
        make_result("GeoDM", 0.7, geometries={"0": states[0], "1": states[1]}),
    ]
    headings, rows = geometry_rows(results)
    assert headings == ("Method", "curvature spherical", "weight euclidean", "weight spherical")
    assert rows[0] == ("DM", "–", "1.00", "–")
    assert rows[1] == ("GeoDM", "2.00 ± 1.41", "0.30 ± 0.07", "0.70 ± 0.07")
    assert to_markdown(results).count("\n") == 4
