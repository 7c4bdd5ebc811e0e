"""Batches of student and teacher logits → one loss, by optimal transport between their images."""

from __future__ import annotations

import torch
from torch import Tensor

from geodm_lightning.types import InputError


def logit_transport(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 2.0,
    epsilon: float = 0.1,
    num_iters: int = 20,
) -> Tensor:
    r"""Sinkhorn distance between the answers of a student and of its teachers to one batch.

    .. math::
        \sum_{ij} P_{ij} C_{ij}, \qquad
        C_{ij} = \lVert \sigma(s_i / T) - \sigma(t_j / T) \rVert_1, \qquad
        P \text{ from } e^{-C/\varepsilon} \text{ by turns of its rows and its columns}

    A term per image compares answers to the same image; this one compares the batches, through
    a plan ``(n, n)`` whose columns sum to 1. Its mass is the batch size, as in SinKD, where the
    loss enters with weight 0.001: 0.1 of a plan of unit mass at 100 images (that the paper
    means this form is inferred from its authors' earlier code). Everything is computed from
    logarithms in float32 at least, so no ``epsilon`` underflows. The gradient goes through the
    iterations, as there, and only to the student.

    Args:
        student: Logits ``(n, K)`` of the student.
        teacher: Logits ``(n, K)`` of the teachers for the same images; detached.
        temperature: Temperature of both softmaxes.
        epsilon: Entropic temperature, in the unit of the costs, which lie in ``[0, 2]``.
        num_iters: Rounds, each of which scales the rows, then the columns.

    Returns:
        Scalar loss; it is near 0 only where every student's answer is its teacher's and
        ``epsilon`` is small.

    Raises:
        InputError: If the shapes differ, a temperature is not positive or ``num_iters`` is
            below 1.

    Example:
        Two images answered with certainty, and wrongly: all mass moves across the simplex.

        >>> teacher = torch.tensor([[99.0, 0.0, 0.0], [99.0, 0.0, 0.0]])
        >>> logit_transport(teacher.roll(1, dims=1), teacher)
        tensor(4.)

    References:
        Cui et al., "SinKD: Sinkhorn distance minimization for knowledge distillation", 2024;
        Cuturi, "Sinkhorn distances", 2013.
    """
    _check(student, teacher, temperature, epsilon, num_iters)
    dtype = torch.promote_types(student.dtype, torch.float32)
    answers = torch.softmax(student.to(dtype) / temperature, dim=1)
    wanted = torch.softmax(teacher.detach().to(dtype) / temperature, dim=1)
    cost = torch.cdist(answers, wanted, p=1.0)
    log_plan = cost / -epsilon
    for _ in range(num_iters):
        log_plan = log_plan - log_plan.logsumexp(1, keepdim=True)
        log_plan = log_plan - log_plan.logsumexp(0, keepdim=True)
    return (log_plan.exp() * cost).sum()


def _check(
    student: Tensor, teacher: Tensor, temperature: float, epsilon: float, num_iters: int
) -> None:
    if student.shape != teacher.shape or student.dim() != 2:
        raise InputError(
            f"student logits have shape {tuple(student.shape)}, those of the teachers "
            f"{tuple(teacher.shape)}; both must be (images, classes)"
        )
    for name, value in (("temperature", temperature), ("epsilon", epsilon)):
        if not value > 0:
            raise InputError(f"{name} must be positive, got {value}")
    if num_iters < 1:
        raise InputError(f"num_iters must be at least 1, got {num_iters}")
