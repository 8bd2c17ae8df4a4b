"""Pairs of projections have the product they promise; state-space constants the range they promise."""

from __future__ import annotations

import math

import pytest
import torch
from table import fill

from initadvisor.errors import SchemeError
from initadvisor.types import Fans

WIDTH = 64


def qk(part: str, heads: int = 1, **more) -> torch.Tensor:
    return fill(
        "mimetic", (WIDTH, WIDTH), Fans(WIDTH, WIDTH), part=part, heads=heads, pair=3, dtype=torch.float64, **more
    )


def test_query_times_key_is_the_identity_and_noise():
    """One head keeps full rank, so the product is exactly α·Z + β·I with Z of variance 1/d."""
    product = qk("query").T @ qk("key")
    noise = product - 0.7 * torch.eye(WIDTH)
    n = noise.numel()
    assert float(noise.mean()) == pytest.approx(0, abs=5 * 0.7 / math.sqrt(WIDTH * n))
    assert float(noise.square().mean()) == pytest.approx(0.49 / WIDTH, rel=5 * math.sqrt(2 / n))


@pytest.mark.parametrize("heads", [2, 8])
def test_every_head_has_its_own_product_of_its_own_rank(heads):
    size = WIDTH // heads
    query, key = qk("query", heads), qk("key", heads)
    products = [query[i : i + size].T @ key[i : i + size] for i in range(0, WIDTH, size)]
    assert all(int(torch.linalg.matrix_rank(p)) == size for p in products)
    assert all(float(p.trace()) > 0 for p in products)
    assert not torch.allclose(products[0], products[1])
    # Both halves carry the same share: their norms agree.
    torch.testing.assert_close(query.norm(), key.norm())


def test_without_noise_the_product_is_a_scaled_projection():
    product = qk("query", alpha=0.0, beta=2.0).T @ qk("key", alpha=0.0, beta=2.0)
    torch.testing.assert_close(product, 2 * torch.eye(WIDTH, dtype=torch.float64))


def test_value_times_output_is_the_negative_identity_and_noise():
    def half(part: str) -> torch.Tensor:
        return fill("mimetic", (WIDTH, WIDTH), Fans(WIDTH, WIDTH), part=part, dtype=torch.float64)

    # y = W_O (W_V x), as torch stores them.
    product = half("out") @ half("value")
    noise = product + 0.4 * torch.eye(WIDTH)
    assert float(noise.square().mean()) == pytest.approx(0.16 / WIDTH, rel=5 * math.sqrt(2 / noise.numel()))


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(SchemeError, match="3 heads do not fit"):
        qk("query", heads=3)


def test_step_sizes_are_log_uniform():
    steps = torch.nn.functional.softplus(fill("mamba_dt_bias", (20000,), Fans(0, 0), dtype=torch.float64))
    assert 0.001 <= float(steps.min()) < 0.00101
    assert 0.099 < float(steps.max()) <= 0.1
    # ln dt is uniform: its mean is the middle, within five standard errors.
    width = math.log(100)
    assert float(steps.log().mean()) == pytest.approx(math.log(0.01), abs=5 * width / math.sqrt(12 * 20000))


def test_decay_rates_count_from_one():
    value = fill("mamba_a_log", (4, 16), Fans(0, 0), dtype=torch.float64)
    torch.testing.assert_close(value.exp(), torch.arange(1.0, 17.0, dtype=torch.float64).expand(4, 16))


def test_lora_a_is_torchs_linear_default():
    """LoRA's A is kaiming_uniform with a = √5: the bound of ``torch_linear``, so it needs no initializer of its own."""
    fans = Fans(64, 8)
    bound = math.sqrt(6 / ((1 + 5) * fans.fan_in))
    value = fill("torch_linear", (8, 64), fans)
    assert 0.99 * bound < float(value.abs().max()) <= bound
