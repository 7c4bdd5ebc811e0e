"""Measure the geometry of a data set: in pixels, in random networks, in a trained one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text
from torch import Tensor

from geodm_lightning import assembly
from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.data.normalise import normalise
from geodm_lightning.diagnosis.measured import Measured, Sampling, average, measure
from geodm_lightning.diagnosis.proposal import Proposal
from geodm_lightning.distillers.real_features import embed_in_chunks
from geodm_lightning.files import write_json
from geodm_lightning.networks.network import Network
from geodm_lightning.networks.pool import RandomPool
from geodm_lightning.processes import Processes
from geodm_lightning.provenance import provenance
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.settings import COUNT, Rule, check_settings, choose_accelerator, shortened
from geodm_lightning.site import Site, open_site
from geodm_lightning.stages.run import CONSOLE
from geodm_lightning.types import InputError

SMALLEST = {"num_images": 4}  # a triangle and a point on its side; the other options start at 1
NOTES = (
    "(G): Gaussian clouds of the same covariance, without which no number",
    "means anything. δ_rel, c(δ): straight distances of images or of class",
    "means; the rest: geodesics of the neighbour graph. H, E, S: relative",
    "error of the distances in the best hyperbolic, flat and spherical space,",
    "with its curvature's magnitude. Unit of length: the mean feature norm.",
)
COLUMNS = {
    "δ_rel": "{delta_rel:.2f}",
    "means": "{delta_rel_of_means:.2f}",
    "c(δ)": "{delta_curvature:.2f}",
    "ξ<0": "{triangles_negative:.2f}",
    "κ": "{triangle_curvature:.2f}",
    "H": "{hyperbolic_residual:.3f}",
    "c_H": "{hyperbolic_curvature:.2f}",
    "E": "{euclidean_residual:.3f}",
    "S": "{spherical_residual:.3f}",
    "c_S": "{spherical_curvature:.2f}",
}


class DiagnosisOptions(NamedTuple):
    """What ``++diagnosis.KEY=VALUE`` may set; see :class:`Sampling` for the last four.

    Attributes:
        num_control_images: Images the covariance and the class means are taken from.
        num_networks: Random networks.
    """

    num_control_images: int = 2000
    num_networks: int = 3
    num_images: int = Sampling().num_images
    num_controls: int = Sampling().num_controls
    num_neighbours: int = Sampling().num_neighbours
    num_triangles: int = Sampling().num_triangles

    @property
    def sampling(self) -> Sampling:
        """The part a single measurement needs."""
        return Sampling(*self[2:])


def diagnose_data(values: dict[str, Any]) -> Path:
    """Measure the configured data set, print a table and write it down.

    Args:
        values: Resolved configuration as plain containers; ``diagnosis`` may hold options.

    Returns:
        The file written, ``RUN_DIR/diagnosis/DATA.json``.

    Raises:
        InputError: If a value cannot be used.
    """
    options = check_options(values.get("diagnosis", {}))
    check_settings(values)
    settings = shortened(values)
    trainer = settings["trainer"]
    site = open_site(
        choose_accelerator(trainer),
        precision=trainer["precision"],
        threads=trainer["threads"],
        processes=Processes(),
    )
    data = assembly.build_data(settings, site.device)
    rows = measure_all(settings, options, data, site)
    random = average(rows[1:-1], f"random ×{len(rows) - 2}")
    chosen = rows[-1] if settings["pool"]["kind"] == "trained" else random
    CONSOLE.print(table_of(data.spec.name, [rows[0], random, rows[-1]]))
    for line in (f"{chosen.name} networks: {chosen.proposal.reason}", override_of(chosen.proposal)):
        CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)
    record = {
        "dataset": data.spec.name,
        "seed": settings["seed"],
        "options": options._asdict(),
        "network": settings["network"],
        "pretrain": assembly.pretrain_settings(settings, for_herding=True)._asdict(),
        "rows": [row._asdict() for row in rows],
        "proposal": {"features": chosen.name, **chosen.proposal._asdict()},
        "override": override_of(chosen.proposal),
        "provenance": provenance(*site[:2]),
    }
    return write_json(Path(settings["run_dir"]) / "diagnosis" / f"{data.spec.name}.json", record)


def check_options(options: dict[str, Any]) -> DiagnosisOptions:
    """Return the options, defaults where nothing is said.

    Raises:
        InputError: Naming an unknown key or a value that cannot be used.
    """
    for key, value in options.items():
        if key not in DiagnosisOptions._fields:
            known = ", ".join(DiagnosisOptions._fields)
            raise InputError(f"unknown key 'diagnosis.{key}'; choose among {known}")
        rule = Rule(int, SMALLEST[key]) if key in SMALLEST else COUNT
        if rule.broken_by(value):
            raise InputError(f"diagnosis.{key} must be {rule}, got {value!r}")
    return DiagnosisOptions(**options)


def measure_all(
    settings: dict[str, Any], options: DiagnosisOptions, data: RealDataModule, site: Site
) -> list[Measured]:
    """Measure pixels, the first random networks of the run and one trained network.

    Returns:
        One row for the pixels, one for each random network, one for the trained network.
    """
    seed, spec = settings["seed"], data.spec
    per_class = math.ceil(max(options.num_control_images, options.num_images) / spec.num_classes)
    indices = data.train.draw(per_class, generator=keyed_generator(seed, "diagnosis", "images"))
    images = normalise(data.train.gather(indices), spec)  # (C, R, ch, h, w)
    sizes: dict[str, Any] = {"sampling": options.sampling, "seed": seed}
    pool = RandomPool(assembly.network_builder(settings["network"], spec), seed).to(site.device)
    rows = [measure("pixels", images.flatten(2), **sizes)]
    for index in range(options.num_networks):
        features = embed(pool.network(index), images)
        rows.append(measure(f"random {index}", features, **sizes))
    trained = assembly.herding_network(settings, data, site)
    return [*rows, measure("trained", embed(trained, images), **sizes)]


def embed(network: Network, images: Tensor) -> Tensor:
    """Features ``(C, R, d)`` of images ``(C, R, ch, h, w)``, as the matching embeds them."""
    return embed_in_chunks(network, images.flatten(0, 1)).unflatten(0, images.shape[:2])


def table_of(title: str, rows: list[Measured]) -> Table:
    """Return a table that rich prints, controls below their features."""
    table = Table(
        title=Text(title),
        caption=Text("\n".join(NOTES)),
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ("features", *COLUMNS):
        table.add_column(heading, justify="left" if heading == "features" else "right")
    for row in rows:
        usual = {key: sum(values) / len(values) for key, values in row.controls.items()}
        table.add_row(Text(row.name), *(text.format(**row.data) for text in COLUMNS.values()))
        table.add_row(Text("(G)"), *(text.format(**usual) for text in COLUMNS.values()))
    return table


def override_of(proposal: Proposal) -> str:
    """Return the proposal as command-line overrides of ``geometry=product``."""
    curvatures = [
        f"geometry.curvature.{name}={value:g}" for name, value in proposal.curvature.items()
    ]
    weights = ",".join(f"{value:g}" for value in proposal.weights.values())
    return " ".join([*curvatures, f"geometry.weights=[{weights}]"])
