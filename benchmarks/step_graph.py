"""A training step of several students as one CUDA graph."""

from __future__ import annotations

from typing import Any

import torch
import turns

from geodm_lightning.evaluation.together import Course


def captured(course: Course, num_students: int, device: torch.device) -> tuple[float, float]:
    """Replay the training step of all students as a CUDA graph.

    Returns:
        The seconds of all steps but the first, and how far the weights are from those of the
        same steps taken one by one.
    """
    indices = list(range(num_students))
    eager, replayed = (course.students(indices).to(device) for _ in range(2))
    optimizers = [
        course.protocol.build_optimizer(s.network.parameters()) for s in (eager, replayed)
    ]
    batches = list(course.batches(indices).train_dataloader())
    static = [tuple(part.clone() for part in own) for own in batches[0]]

    def step(students: Any, optimizer: Any, batch: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        students.training_step(batch, 1).backward()
        optimizer.step()

    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    before = {k: v.clone() for k, v in replayed.state_dict().items()}
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):  # the libraries choose their kernels before anything is captured
            step(replayed, optimizers[1], static)
    torch.cuda.current_stream(device).wait_stream(stream)
    with torch.cuda.graph(graph):
        step(replayed, optimizers[1], static)
    replayed.load_state_dict(before)
    for state in optimizers[1].state.values():
        state["momentum_buffer"].zero_()

    def replay(_: int) -> None:
        for own in course.batches(indices).train_dataloader():
            for kept, fresh in zip(static, own, strict=True):
                for part, values in zip(kept, fresh, strict=True):
                    part.copy_(values)
            graph.replay()

    seconds = turns.seconds_of(replay, 0, device)
    for batch in batches:
        step(eager, optimizers[0], batch)
    pairs = zip(eager.parameters(), replayed.parameters(), strict=True)
    difference = max(float((a - b).detach().abs().max()) for a, b in pairs)
    return seconds * (course.num_steps - 1) / course.num_steps, difference
