"""The eight operations are DARTS's: each against torch modules with the same weights."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain import NAMES as PAPERS
from strategies import SEEDS, examples

from wiring.costs import NO_EPS, set_eps
from wiring.supernet import textbook
from wiring.supernet.gates import gated_sum
from wiring.supernet.normalise import EPS
from wiring.supernet.operations import NAMES, NONE, OPERATIONS, Depthwise, FactorizedReduce, Node, ReLUConvBN

pytestmark = pytest.mark.usefixtures("both_forms")

close = torch.testing.assert_close
MODULES = [name for name in NAMES if name != "none"]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


def run(module, x):
    """The operation's output alone, with all that is left for a node to compute."""
    return gated_sum([module(Node(x))], torch.ones(len(x), 1, dtype=x.dtype))


def gradients(output, x, module, direction):
    return torch.autograd.grad((output * direction).sum(), [x, *module.parameters()])


def assert_same_function(ours, theirs, x):
    """Outputs, and the gradients of the input and of every weight, agree."""
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x.requires_grad_()
    output, expected = run(ours, x), theirs(x)
    direction = torch.randn(expected.shape, dtype=x.dtype)
    pairs = zip(
        [output, *gradients(output, x, ours, direction)],
        [expected, *gradients(expected, x, theirs, direction)],
        strict=True,
    )
    for mine, other in pairs:
        assert mine.shape == other.shape
        assert (mine - other).abs().max() <= TOLERANCE[x.dtype] * max(1, other.abs().max())


@st.composite
def images(draw, dtype):
    """A batch of images of any size from 3, even and odd; sets torch's seed."""
    torch.manual_seed(draw(SEEDS))
    shape = draw(st.integers(2, 4)), draw(st.integers(2, 4)), draw(st.integers(3, 9)), draw(st.integers(3, 9))
    return torch.randn(shape, dtype=dtype)


def test_names_are_in_the_papers_order():
    assert NAMES == PAPERS


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
        assert_same_function(ours, textbook.operation(name, channels, stride).to(dtype), x)

    check()


@given(images(torch.float64), st.integers(2, 5))
@examples(10)
def test_input_nodes_equal_torchs_modules(x, channels):
    assert_same_function(
        ReLUConvBN(x.shape[1], channels).double(), textbook.relu_conv_bn(x.shape[1], channels).double(), x
    )
    assert_same_function(
        FactorizedReduce(x.shape[1], channels).double(), textbook.FactorizedReduce(x.shape[1], channels).double(), x
    )


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (4, 9)])
@pytest.mark.parametrize("name", MODULES)
def test_stride_2_halves_the_size_and_rounds_up(name, size):
    output = run(OPERATIONS[name](2, 2), torch.randn(2, 2, *size))
    assert output.shape == (2, 2, (size[0] + 1) // 2, (size[1] + 1) // 2)


@pytest.mark.parametrize("stride", [1, 2])
def test_average_pool_does_not_count_padding(stride):
    ones = torch.ones(1, 2, 5, 6)
    close(OPERATIONS["avg_pool_3x3"](2, stride).pool(ones, stride), ones[:, :, ::stride, ::stride])


@pytest.mark.parametrize("name", MODULES)
def test_batch_norm_has_no_parameters_and_uses_the_batch_in_evaluation_too(name):
    module, x = OPERATIONS[name](3, 1), torch.randn(4, 3, 5, 5)
    assert len([part for part in module.modules() if hasattr(part, "eps")]) == {"skip": 0, "sep_": 2}.get(name[:4], 1)
    assert {key.split(".")[-1] for key in module.state_dict()} <= {"weight"}
    assert torch.equal(run(module.train(), x), run(module.eval(), x))


@pytest.mark.parametrize("name", MODULES)
def test_all_but_skip_are_homogeneous_of_degree_0(name):
    torch.manual_seed(0)
    module, x = OPERATIONS[name](3, 1).double(), torch.randn(4, 3, 5, 5, dtype=torch.float64)
    set_eps(module, NO_EPS)
    factor = 3 if name == "skip_connect" else 1
    close(run(module, 3 * x), factor * run(module, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_depthwise_convolution_has_the_librarys_gradients(kernel, dilation, stride, dtype):
    @given(SEEDS, st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 10), st.integers(1, 10)))
    @examples(8)
    def check(seed, shape):
        torch.manual_seed(seed)
        ours = Depthwise(shape[1], kernel, stride, dilation).to(dtype)
        around, channels = dilation * (kernel // 2), shape[1]
        theirs = torch.nn.Conv2d(channels, channels, kernel, stride, around, dilation, channels, False, dtype=dtype)
        theirs.load_state_dict(ours.state_dict())
        x = torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        output, expected = ours(x), theirs(x)
        direction = torch.randn_like(expected)
        for mine, library in zip(
            [output, *gradients(output, x, ours, direction)],
            [expected, *gradients(expected, x, theirs, direction)],
            strict=True,
        ):
            close(mine, library, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])

    check()


def test_what_a_node_has_no_weights_for_is_computed_once():
    node, calls = Node(torch.randn(1, 1, 3, 3)), []

    def pool(x, stride):
        calls.append(stride)
        return x[:, :, ::stride, ::stride]

    assert torch.equal(node.rectified, node.x.clamp(min=0))
    assert node.rectified is node.rectified
    assert node.pooled(pool, 1, EPS) is node.pooled(pool, 1, EPS)
    assert node.pooled(pool, 2, EPS) is node.pooled(pool, 2, EPS)
    assert calls == [1, 2]
