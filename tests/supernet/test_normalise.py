"""BN(W d) as one matrix product equals torch's convolution and batch normalisation, gradients and all."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import SEEDS, examples
from torch.nn import functional as F

from wiring.supernet.gates import gated_sum, normalised_relu
from wiring.supernet.normalise import Normalised, images, pixels

close = torch.testing.assert_close


def reference(features, weight, eps):
    y = features if weight is None else F.conv2d(features, weight)
    return F.batch_norm(y, None, None, training=True, eps=eps)


@st.composite
def inputs(draw):
    """Features of several outputs of one shape, their weights (None: identity), and a precision."""
    torch.manual_seed(draw(SEEDS))
    dtype = draw(st.sampled_from([torch.float64, torch.float32]))
    batch, channels, height, width = (draw(st.integers(*bounds)) for bounds in ((2, 4), (2, 4), (2, 7), (2, 7)))
    features, weights = [], []
    for identity in draw(st.lists(st.booleans(), min_size=1, max_size=4)):
        x = draw(st.floats(0.1, 10)) * torch.randn(batch, channels, height, width, dtype=dtype)
        features.append(x.requires_grad_())
        weights.append(None if identity else torch.randn(channels, channels, 1, 1, dtype=dtype).requires_grad_())
    return features, weights


def assert_equal(ours, theirs, features, weights, extra=()):
    leaves = [*features, *(weight for weight in weights if weight is not None), *extra]
    direction = torch.randn(theirs.shape, dtype=theirs.dtype)
    tolerance = 1e-9 if theirs.dtype == torch.float64 else 1e-3
    for mine, other in zip(
        [ours, *torch.autograd.grad(ours, leaves, direction)],
        [theirs, *torch.autograd.grad(theirs, leaves, direction)],
        strict=True,
    ):
        assert mine.dtype == other.dtype
        close(mine, other, rtol=tolerance, atol=tolerance * float(other.detach().abs().max().clamp(min=1)))


@given(inputs(), st.sampled_from([1e-5, 1e-2]))
@examples(60)
def test_a_gated_sum_is_that_of_normalised_convolutions(case, eps):
    features, weights = case
    gates = torch.randn(len(features[0]), len(features), dtype=features[0].dtype).requires_grad_()
    ours = gated_sum([Normalised(x, weight, eps) for x, weight in zip(features, weights, strict=True)], gates)
    theirs = sum(
        gate[:, None, None, None] * reference(x, weight, eps)
        for x, weight, gate in zip(features, weights, gates.T, strict=True)
    )
    assert_equal(ours, theirs, features, weights, [gates])


@given(inputs())
@examples(30)
def test_normalised_relu_is_relu_of_the_normalised_convolution(case):
    features, weights = case
    weight = next((weight for weight in weights if weight is not None), None)
    assume(weight is not None)
    ours = normalised_relu(Normalised(features[0], weight))
    assert_equal(ours, F.relu(reference(features[0], weight, 1e-5)), features[:1], [weight])


@given(inputs())
@examples(20)
def test_moments_are_those_of_all_pixels(case):
    x = case[0][0]
    mean, covariance = Normalised(x, None).moments
    columns = x.detach().double().transpose(0, 1).flatten(1)
    tolerance = 1e-4 * float(columns.square().mean() + 1)
    close(mean.double(), columns.mean(1), rtol=1e-5, atol=tolerance)
    close(covariance.double(), torch.cov(columns, correction=0), rtol=1e-4, atol=tolerance)


def test_a_constant_channel_is_normalised_to_nothing_and_stays_finite():
    x = torch.full((2, 2, 3, 3), 100.0).requires_grad_()
    output = gated_sum([Normalised(x, None)], torch.ones(2, 1))
    close(output, torch.zeros_like(output), rtol=0, atol=0.05)
    output.sum().backward()
    assert x.grad.isfinite().all()


def test_pixels_are_a_view_and_images_the_way_back():
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    assert pixels(x).data_ptr() == x.data_ptr()
    assert torch.equal(images(pixels(x), x), x)
    assert pixels(x.bfloat16()).dtype == torch.float32
    assert images(pixels(x.bfloat16()), x.bfloat16()).dtype == torch.bfloat16


def test_outputs_of_one_node_must_share_eps():
    x = torch.randn(2, 2, 3, 3)
    with pytest.raises(ValueError, match=r"eps = \[1e-05, 0.001\]"):
        gated_sum([Normalised(x, None), Normalised(x, None, 1e-3)], torch.ones(2, 2))


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_gradients_of_what_is_summed_are_dense(outputs):
    # With the strides of a slice a GPU's batch normalisation goes back by a kernel five times as slow.
    xs = [torch.randn(4, 3, 6, 5).contiguous(memory_format=torch.channels_last) for _ in range(outputs)]
    found = []
    for x in xs:
        x.requires_grad_().register_hook(found.append)
    gated_sum(xs, torch.rand(4, outputs)).sum().backward()
    assert [g.is_contiguous(memory_format=torch.channels_last) for g in found] == [True] * outputs
