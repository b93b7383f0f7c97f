"""What trains encoders: each loss against the paper's sum, written as a slow loop."""

import math

import pytest
import torch

from causeway.learners import context_losses
from causeway.learners.formulas import masked_mean
from tests.learners.factories import doubles

EXACT = 1e-12


def distance(z, i, j):
    return sum((z[i, d].item() - z[j, d].item()) ** 2 for d in range(z.shape[1])) / z.shape[1]


def reference_distance_loss(z, task):
    pulled, pushed = [], []
    for i in range(len(z)):
        for j in range(i + 1, len(z)):
            d = distance(z, i, j)
            if task[i] == task[j]:
                pulled.append(math.sqrt(d + 1e-3))
            else:
                pushed.append(1.0 / (d + 0.1))
    return sum(sum(pairs) / len(pairs) for pairs in (pulled, pushed) if pairs)


@pytest.mark.parametrize("task", [[4, 7, 4, 7, 1], [1, 2, 3, 4, 5], [3, 3, 3, 3, 3]])
def test_the_distance_loss_equals_the_papers_sum(task):
    z = doubles(5, 3)
    actual = context_losses.distance_loss(z, torch.tensor(task)).item()
    assert actual == pytest.approx(reference_distance_loss(z, task), rel=EXACT)


def test_the_distance_loss_pulls_one_tasks_latents_together_and_pushes_two_tasks_apart():
    z = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    for task, sign in (([5, 5], -1.0), ([5, 6], 1.0)):
        (gradient,) = torch.autograd.grad(context_losses.distance_loss(z, torch.tensor(task)), z)
        assert math.copysign(1.0, gradient[0, 0]) == sign  # descent moves the other way
        assert math.copysign(1.0, gradient[1, 0]) == -sign


def test_two_equal_latents_of_one_task_have_a_finite_gradient():
    z = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    context_losses.distance_loss(z, torch.tensor([0, 0])).backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_infonce_equals_the_papers_sum(temperature):
    anchor, positive, negative = doubles(4, 3), doubles(4, 3, seed=1), doubles(4, 5, 3, seed=2)
    total = 0.0
    for i in range(4):

        def e(other, own=anchor[i]):
            return math.exp(
                sum(a * b for a, b in zip(own.tolist(), other, strict=True)) / temperature
            )

        near = e(positive[i].tolist())
        total -= math.log(near / (near + sum(e(row) for row in negative[i].tolist())))
    actual = context_losses.info_nce(anchor, positive, negative, temperature=temperature).item()
    assert actual == pytest.approx(total / 4, rel=EXACT)


def test_infonce_of_what_cannot_be_told_apart_is_the_logarithm_of_the_choices():
    same = torch.ones(3, 4, dtype=torch.float64)
    loss = context_losses.info_nce(same, same, same[:, None].expand(-1, 16, -1), temperature=0.1)
    assert loss.item() == pytest.approx(math.log(17.0), rel=EXACT)


@pytest.mark.parametrize("task", [[4, 7, 4, 1], [1, 2, 3, 4]])
def test_the_nce_information_equals_a_slow_loop_over_windows_of_other_tasks(task):
    left, right = doubles(4, 3), doubles(4, 3, seed=1)

    def e(i, j):
        product = sum((left[i] * right[j]).tolist())
        return math.exp(product / (left[i].norm().item() * right[j].norm().item()) / 0.3)

    total = 0.0
    for i in range(4):
        others = [j for j in range(4) if task[j] != task[i]]
        total += math.log(1 + len(others))
        total += math.log(e(i, i) / (e(i, i) + sum(e(i, j) for j in others)))
    actual = context_losses.nce_information(left, right, torch.tensor(task), temperature=0.3)
    assert actual.item() == pytest.approx(total / 4, rel=EXACT)


def test_hsic_equals_the_trace_of_centred_kernels_and_tells_dependence():
    left, right = doubles(6, 2), doubles(6, 3, seed=1)

    def kernel(x):
        rows = [[math.exp(-0.5 * ((a - b) ** 2).sum().item()) for b in x] for a in x]
        return torch.tensor(rows, dtype=torch.float64)

    centre = torch.eye(6, dtype=torch.float64) - 1.0 / 6.0
    expected = torch.trace(kernel(left) @ centre @ kernel(right) @ centre) / 25.0
    torch.testing.assert_close(context_losses.hsic(left, right), expected, rtol=1e-10, atol=0.0)
    x = doubles(200, 1, seed=3, low=-2, high=2)
    alone = context_losses.hsic(x, doubles(200, 1, seed=4, low=-2, high=2))
    assert context_losses.hsic(x, x.square()) > 5.0 * alone


def test_halves_are_of_every_other_point_and_leave_the_padding_out():
    points, mask = doubles(3, 5, 2), doubles(3, 5, seed=1) > -0.7
    mask[:, :2] = True
    halves, whole = context_losses.halves_of(points, mask)
    for n in range(3):
        for start, row in ((0, n), (1, n + 3)):
            own = [points[n, k] for k in range(start, 5, 2) if mask[n, k]]
            torch.testing.assert_close(halves[row], sum(own) / len(own))
        own = [points[n, k] for k in range(5) if mask[n, k]]
        torch.testing.assert_close(whole[n], sum(own) / len(own))


def test_the_mean_of_nothing_is_zero():
    mean = masked_mean(doubles(2, 3, 4), torch.tensor([[True, False, True], [False] * 3]))
    assert (mean[0] != 0).all()
    assert torch.equal(mean[1], torch.zeros(4, dtype=torch.float64))
