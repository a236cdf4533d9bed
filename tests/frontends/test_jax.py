"""JAX functions and Flax modules as sources: what is ours without JAX, and the whole way where it is there (slow)."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import numpy as np
import pytest

import prunegraph as pg
from prunegraph.errors import MissingExtraError, ModelError
from prunegraph.runtime.session import run, session
from tests.oracle import prove

needs_jax = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("jax", "jax2onnx")),
    reason="the extra [jax] is not installed",
)

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)


def stand_in() -> Any:
    """Something of the class of what `jax.jit` returns."""
    created = type("PjitFunction", (), {"__call__": lambda self, x: x})
    created.__module__ = "jaxlib._jax"
    return created()


def test_without_the_extra_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'prunegraph\[jax\]'"):
        pg.load(stand_in(), IMAGES)


def test_inputs_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ModelError, match="give inputs, example arrays or shapes"):
        pg.load(stand_in())


def convolutional() -> Any:
    """A function of images, its parameters bound."""
    import jax

    keys = jax.random.split(jax.random.key(0), 4)
    sizes = ((3, 3, 3, 12), (12, 20), (20,), (20, 5))
    weights = [jax.random.normal(key, s) * 0.2 for key, s in zip(keys, sizes, strict=True)]

    def forward(weights: Any, x: Any) -> Any:
        kernel, first, bias, last = weights
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=layout
        )
        x = jax.nn.relu(x).mean((1, 2))
        return jax.nn.gelu(x @ first + bias) @ last

    return jax.jit(functools.partial(forward, weights))


def check(graph: pg.Graph, wanted: Any, values: np.ndarray) -> None:
    """The graph computes what JAX computes, and is pruned with a proof."""
    [found] = run(session(graph), {graph.inputs[0]: values})
    np.testing.assert_allclose(found, np.asarray(wanted), atol=1e-5)
    assert pg.analyze(graph).groups
    prove(graph)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@needs_jax
@pytest.mark.parametrize(
    "given",
    [IMAGES, [IMAGES], {"x": IMAGES}, ("n", 8, 8, 3), [("n", 8, 8, 3)]],
    ids=["array", "arguments", "by name", "shape", "shapes"],
)
def test_functions(given: Any) -> None:
    function = convolutional()
    graph = pg.load(function, given)
    assert graph.inputs == ("x",)
    values = np.concatenate([IMAGES, IMAGES[:1]])
    check(graph, function(values), values)
    # Kernels in JAX's layout are weights, not computed: layers can be refitted and quantized.
    assert len(graph.layers) == 3
    assert all(layer.inputs[1] in graph.weights for layer in graph.layers)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@needs_jax
def test_loops() -> None:
    """A scan over time, which stays a loop; its hidden state is pruned."""
    import jax
    from jax import numpy as jnp

    keys = jax.random.split(jax.random.key(0), 3)
    sizes = ((24, 16), (16, 16), (16, 5))
    first, inner, last = (
        jax.random.normal(key, size) * 0.2 for key, size in zip(keys, sizes, strict=True)
    )

    @jax.jit
    def recurrent(x: Any) -> Any:
        def step(hidden: Any, row: Any) -> Any:
            return jnp.tanh(row @ first + hidden @ inner), None

        rows = x.reshape(x.shape[0], 8, 24).transpose(1, 0, 2)
        return jax.lax.scan(step, jnp.zeros((x.shape[0], 16)), rows)[0] @ last

    check(pg.load(recurrent, IMAGES), recurrent(IMAGES), IMAGES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@needs_jax
def test_modules_of_flax() -> None:
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs: Any):
            self.conv = nnx.Conv(3, 12, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(12, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.first = nnx.Linear(12, 16, rngs=rngs)
            self.scale = nnx.LayerNorm(16, rngs=rngs)
            self.mix = nnx.MultiHeadAttention(4, 16, decode=False, rngs=rngs)
            self.last = nnx.Linear(16, 5, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = self.drop(nnx.relu(self.norm(self.conv(x))))
            x = self.first(x.reshape(x.shape[0], -1, x.shape[-1]))
            x = x + self.mix(self.scale(x))
            return self.last(nnx.gelu(x)).mean(1)

    net = Net(nnx.Rngs(0))
    net(IMAGES)
    graph = pg.load(net, IMAGES)
    assert not net.norm.use_running_average and not net.drop.deterministic
    net.eval()
    check(graph, net(IMAGES), IMAGES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@needs_jax
def test_what_cannot_be_converted() -> None:
    import jax

    for function, inputs, message in (
        (lambda x: x.reshape(int(x.shape[0]), -1), IMAGES, "Symbolic dimension 'batch'"),
        (lambda x, *, y: x + y, {"x": IMAGES, "y": IMAGES}, "keyword-only.*'y'"),
        (lambda x: x, [IMAGES, IMAGES], "too many positional arguments"),
    ):
        with pytest.raises(ModelError, match=f"the JAX function .*{message}"):
            pg.load(jax.jit(function), inputs)
    halves = jax.jit(lambda x: x.reshape(int(x.shape[0]), -1))
    assert pg.load(halves, [(2, 8, 8, 3)]).outputs
