"""The eight operations are DARTS's: each against torch modules with the same weights."""

import plain
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, examples, without_eps

from wiring.operations import NAMES, NONE, OPERATIONS, FactorizedReduce, Node, ReLUConvBN

MODULES = [name for name in NAMES if name != "none"]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


def gradients(output, x, module, direction):
    return torch.autograd.grad((output * direction).sum(), [x, *module.parameters()])


def assert_same_function(ours, theirs, x):
    """Outputs, and the gradients of the input and of every weight, agree."""
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x.requires_grad_()
    output, expected = ours(Node(x)), theirs(x)
    direction = torch.randn(expected.shape, dtype=x.dtype)
    pairs = zip(
        [output, *gradients(output, x, ours, direction)],
        [expected, *gradients(expected, x, theirs, direction)],
        strict=True,
    )
    for own, plain_one in pairs:
        assert own.shape == plain_one.shape
        assert (own - plain_one).abs().max() <= TOLERANCE[x.dtype] * max(1, plain_one.abs().max())


@st.composite
def images(draw, dtype):
    """A batch of images of any size from 3, even and odd; sets torch's seed."""
    torch.manual_seed(draw(SEEDS))
    shape = draw(st.integers(2, 4)), draw(st.integers(2, 4)), draw(st.integers(3, 9)), draw(st.integers(3, 9))
    return torch.randn(shape, dtype=dtype)


def test_names_are_in_the_papers_order():
    assert NAMES == (
        "none",
        "skip_connect",
        "max_pool_3x3",
        "avg_pool_3x3",
        "sep_conv_3x3",
        "dil_conv_3x3",
        "dil_conv_5x5",
        "sep_conv_5x5",
    )
    assert NAMES == plain.NAMES


def test_none_is_first_and_has_no_module():
    assert (NONE, OPERATIONS["none"]) == (0, None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", MODULES)
def test_operation_equals_torchs_modules(name, stride, dtype):
    @given(images(dtype))
    @examples(8)
    def check(x):
        channels = x.shape[1]
        ours = OPERATIONS[name](channels, stride).to(dtype)
        assert_same_function(ours, plain.operation(name, channels, stride).to(dtype), x)

    check()


@given(images(torch.float64), st.integers(2, 5))
@examples(10)
def test_input_nodes_equal_torchs_modules(x, channels):
    assert_same_function(
        ReLUConvBN(x.shape[1], channels).double(), plain.relu_conv_bn(x.shape[1], channels).double(), x
    )
    assert_same_function(
        FactorizedReduce(x.shape[1], channels).double(), plain.FactorizedReduce(x.shape[1], channels).double(), x
    )


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (4, 9)])
@pytest.mark.parametrize("name", MODULES)
def test_stride_2_halves_the_size_and_rounds_up(name, size):
    output = OPERATIONS[name](2, 2)(Node(torch.randn(2, 2, *size)))
    assert output.shape == (2, 2, (size[0] + 1) // 2, (size[1] + 1) // 2)


@pytest.mark.parametrize("stride", [1, 2])
def test_average_pool_does_not_count_padding(stride):
    ones = torch.ones(1, 2, 5, 6)
    assert torch.equal(OPERATIONS["avg_pool_3x3"](2, stride).pool(ones), ones[:, :, ::stride, ::stride])


@pytest.mark.parametrize("name", MODULES)
def test_batch_norm_has_no_parameters_and_uses_the_batch_in_evaluation_too(name):
    module, x = OPERATIONS[name](3, 1), Node(torch.randn(4, 3, 5, 5))
    norms = [part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert len(norms) == {"skip": 0, "sep_": 2}.get(name[:4], 1)
    assert not any(norm.state_dict() for norm in norms)
    assert torch.equal(module.train()(x), module.eval()(x))


@pytest.mark.parametrize("name", MODULES)
def test_all_but_skip_are_homogeneous_of_degree_0(name):
    torch.manual_seed(0)
    module, x = OPERATIONS[name](3, 1).double(), torch.randn(4, 3, 5, 5, dtype=torch.float64)
    without_eps(module)
    factor = 3 if name == "skip_connect" else 1
    torch.testing.assert_close(module(Node(3 * x)), factor * module(Node(x)), rtol=1e-10, atol=1e-10)


def test_a_nodes_relu_is_computed_once():
    node = Node(torch.randn(1, 1, 3, 3))
    assert torch.equal(node.rectified, node.x.clamp(min=0))
    assert node.rectified is node.rectified
