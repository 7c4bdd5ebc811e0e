"""Images per second of guided and unguided sampling, one at a time and class-parallel.

    OMP_NUM_THREADS=1 python benchmarks/sampling.py --output benchmarks/results/sampling_cpu.json
    python benchmarks/sampling.py --model xl --device cuda --precision bf16-mixed \
        --batches 1,2,4,8,16,32,64 --num-steps 50 --output benchmarks/results/sampling_gpu.json

A diffusion transformer with random weights at 4 × 32 × 32 (256 px), classifier-free guidance, 200
real latents and 9 finished images of each class: the last round of ten images per class. Guided
and unguided sampling take turns in one process. Each sampling has ``--num-steps`` steps; transport
pushes at 0.6 to 0.9 of them, a third of 50 and, at the 10 steps of the default, four of ten.
"""

from __future__ import annotations

from geodm_lightning.openmp import wait_briefly

wait_briefly()  # before torch is imported

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
import turns

from geodm_lightning.diffusion.denoiser import Denoiser
from geodm_lightning.diffusion.sampler import Guidance, Sampler
from geodm_lightning.diffusion.training import build_transformer
from geodm_lightning.files import write_json
from geodm_lightning.guidance import CombinedGuidance, DeviationGuidance, TransportGuidance
from geodm_lightning.guidance.guidance import WINDOW
from geodm_lightning.heap import keep_freed_memory
from geodm_lightning.provenance import provenance
from geodm_lightning.randomness import keyed_generator

LATENT = (4, 32, 32)
REAL, FINISHED = 200, 9  # latents of each class
MODELS = {
    "tiny": {"hidden": 192, "depth": 4, "heads": 3},
    "s": {"hidden": 384, "depth": 12, "heads": 6},
    "xl": {"hidden": 1152, "depth": 28, "heads": 16},
}


def guidance(
    num_classes: int,
    device: torch.device,
    *,
    latent: tuple[int, int, int] = LATENT,
    finished: int = FINISHED,
    window: tuple[float, float] = WINDOW,
) -> CombinedGuidance:
    """Build OTG with deviation towards random latents, ready for the last round."""
    generator = keyed_generator(0, "benchmark", num_classes)
    real = torch.randn(num_classes, REAL, *latent, generator=generator).to(device)
    memory = torch.randn(num_classes, finished, *latent, generator=generator).to(device)
    guidances = [TransportGuidance(real, window=window), DeviationGuidance(window=window)]
    combined = CombinedGuidance(guidances)
    combined.begin(memory)
    return combined


def seconds_of(sampler: Sampler, labels: torch.Tensor, pushed: Guidance | None) -> float:
    """Sample once and return the seconds it took."""
    generators = [keyed_generator(0, "noise", index) for index in range(len(labels))]
    return turns.seconds_of(
        lambda _: sampler.sample(labels, generators=generators, guidance=pushed), 0, labels.device
    )


def measure(sampler: Sampler, batch: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """Compare sampling with and without guidance at one batch size."""
    labels = torch.arange(batch, device=device)
    otg = guidance(batch, device)
    peaks, times = {}, {"unguided": [], "guided": []}
    pushes = {"unguided": None, "guided": otg}
    for turn in range(repeats + 1):
        for name, pushed in pushes.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            seconds = seconds_of(sampler, labels, pushed)
            if device.type == "cuda":
                peaks[name] = torch.cuda.max_memory_allocated(device)
            if turn:  # the first warms up
                times[name].append(seconds)
    ratios = [g / u for g, u in zip(times["guided"], times["unguided"], strict=True)]
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "batch": batch,
        "seconds": medians,
        "images_per_second": {name: batch / value for name, value in medians.items()},
        "guided / unguided": statistics.median(ratios),
        "peak_bytes": peaks or None,
    }


def main() -> None:
    """Measure all batch sizes and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--batches", default="1,4,16")
    parser.add_argument("--num-steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    keep_freed_memory()
    device = torch.device(arguments.device)
    transformer = build_transformer(
        LATENT,
        1000,
        **MODELS[arguments.model],
        patch_size=2,
        learned_variance=True,
        generator=keyed_generator(0, "benchmark"),
    )
    denoiser = Denoiser(transformer.to(device), precision=arguments.precision)
    sampler = Sampler(denoiser, num_steps=arguments.num_steps)
    batches = [int(batch) for batch in arguments.batches.split(",")]
    results = [measure(sampler, batch, arguments.repeats, device) for batch in batches]
    first = results[0]["images_per_second"]["guided"]
    for result in results:
        rate, ratio = result["images_per_second"]["guided"], result["guided / unguided"]
        print(f"batch {result['batch']}: {rate:.3f} guided images/s, {ratio:.3f} × unguided")
        result["speed-up over one at a time"] = result["images_per_second"]["guided"] / first
    parameters = sum(value.numel() for value in transformer.parameters())
    write_json(
        arguments.output,
        {
            "model": {**MODELS[arguments.model], "patch_size": 2, "parameters": parameters},
            "latent": LATENT,
            "real": REAL,
            "finished": FINISHED,
            "num_steps": arguments.num_steps,
            "precision": arguments.precision,
            "repeats": arguments.repeats,
            "batches": results,
            "provenance": provenance(device),
        },
    )


if __name__ == "__main__":
    main()
