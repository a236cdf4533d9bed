"""LSTM, GRU and RNN, step by step, with every option of ONNX."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as nnf

from prunegraph.training.operators.table import Call, Tensor, operator

Activation = Callable[[Tensor], Tensor]
States = tuple[Tensor, ...]
CellStep = Callable[[Tensor, States], States]

#: Activations by their names in lower case, with the defaults of alpha and beta.
ACTIVATIONS: dict[str, Callable[[Tensor, float | None, float | None], Tensor]] = {
    "relu": lambda x, a, b: torch.relu(x),
    "tanh": lambda x, a, b: torch.tanh(x),
    "sigmoid": lambda x, a, b: torch.sigmoid(x),
    "affine": lambda x, a, b: (1.0 if a is None else a) * x + (b or 0.0),
    "leakyrelu": lambda x, a, b: nnf.leaky_relu(x, 0.01 if a is None else a),
    "thresholdedrelu": lambda x, a, b: torch.where(x > (1.0 if a is None else a), x, 0.0),
    "scaledtanh": lambda x, a, b: (
        (1.0 if a is None else a) * torch.tanh((1.0 if b is None else b) * x)
    ),
    "hardsigmoid": lambda x, a, b: torch.clamp(
        (0.2 if a is None else a) * x + (0.5 if b is None else b), 0, 1
    ),
    "elu": lambda x, a, b: nnf.elu(x, 1.0 if a is None else a),
    "softsign": lambda x, a, b: nnf.softsign(x),
    "softplus": lambda x, a, b: nnf.softplus(x),
}


def _activations(
    call: Call, defaults: list[str], directions: int
) -> list[list[Activation]]:
    """Activations of each direction; alphas and betas go to those that take them, in order."""
    names = [
        n.decode() if isinstance(n, bytes) else n
        for n in call.get("activations", defaults * directions)
    ]
    alphas, betas = (
        iter(call.get("activation_alpha", ())),
        iter(call.get("activation_beta", ())),
    )
    created: list[Activation] = []
    for name in names:
        kind = name.lower()
        alpha = (
            next(alphas, None)
            if kind not in ("relu", "tanh", "sigmoid", "softsign", "softplus")
            else None
        )
        beta = (
            next(betas, None) if kind in ("affine", "scaledtanh", "hardsigmoid") else None
        )
        created.append(
            partial(lambda x, f, a, b: f(x, a, b), f=ACTIVATIONS[kind], a=alpha, b=beta)
        )
    return [created[i * len(defaults) : (i + 1) * len(defaults)] for i in range(directions)]


def _run(
    x: Tensor, states: States, step: CellStep, lengths: Tensor | None, backwards: bool
) -> tuple[Tensor, States]:
    """One direction over time: outputs [time, batch, hidden] and the last states."""
    steps, output = x.shape[0], [x.new_zeros(0)] * x.shape[0]
    for time in reversed(range(steps)) if backwards else range(steps):
        new = step(x[time], states)
        if lengths is not None:
            runs = (time < lengths)[:, None]
            output[time] = torch.where(runs, new[0], torch.zeros_like(new[0]))
            states = tuple(
                torch.where(runs, n, old) for n, old in zip(new, states, strict=True)
            )
        else:
            output[time], states = new[0], new
    return torch.stack(output) if steps else x.new_zeros(0, *states[0].shape), states


def _recurrent(
    call: Call,
    inputs: tuple[Tensor | None, ...],
    gates: int,
    defaults: list[str],
    cell: Callable[..., CellStep],
    held: int,
) -> tuple[Tensor, ...]:
    """All directions of a layer; `held` is the number of states, `cell` makes the step of a direction."""
    given: list[Any] = [*inputs, *[None] * (8 - len(inputs))]
    x, w, r, b, lengths, *rest = given
    first = call.get("layout", 0)
    x = x.transpose(0, 1) if first else x
    directions, hidden = w.shape[0], r.shape[2]
    bias = (
        torch.zeros(directions, 2 * gates * hidden, dtype=x.dtype, device=x.device)
        if b is None
        else b
    )
    activations = _activations(call, defaults, directions)
    outputs, last = [], []
    for d in range(directions):
        states = tuple(
            x.new_zeros(x.shape[1], hidden)
            if start is None
            else (start[:, d] if first else start[d])
            for start in rest[:held]
        )
        forward, recurrent = bias[d].chunk(2)
        peepholes = rest[held][d] if held == 2 and rest[held] is not None else None
        step = cell(call, r[d], recurrent, activations[d], peepholes)
        # All products with the input at once: one call instead of one a step.
        projected = nnf.linear(x, w[d], forward)
        backwards = call.get("direction", "forward") == "reverse" or d == 1
        output, states = _run(projected, states, step, lengths, backwards)
        outputs.append(output)
        last.append(states)
    y = torch.stack(outputs, 1)
    ends = [torch.stack([states[i] for states in last]) for i in range(held)]
    if first:
        y, ends = y.permute(2, 0, 1, 3), [end.transpose(0, 1) for end in ends]
    return (y, *ends)


def _clipped(call: Call, x: Tensor) -> Tensor:
    limit = call.get("clip", 0.0)
    return x.clamp(-limit, limit) if limit else x


def _lstm_cell(
    call: Call, r: Tensor, bias: Tensor, f: list[Activation], peepholes: Tensor | None
) -> CellStep:
    def step(x: Tensor, states: States) -> States:
        h, c = states
        i, o, forget, new = (x + nnf.linear(h, r, bias)).chunk(4, -1)
        pi, po, pf = (0.0, 0.0, 0.0) if peepholes is None else peepholes.chunk(3)
        i = f[0](_clipped(call, i + pi * c))
        forget = (
            1 - i if call.get("input_forget", 0) else f[0](_clipped(call, forget + pf * c))
        )
        c = forget * c + i * f[1](_clipped(call, new))
        o = f[0](_clipped(call, o + po * c))
        return o * f[2](c), c

    return step


def _gru_cell(
    call: Call, r: Tensor, bias: Tensor, f: list[Activation], _: Tensor | None
) -> CellStep:
    hidden = r.shape[1]
    after = call.get("linear_before_reset", 0)

    def step(x: Tensor, states: States) -> States:
        h = states[0]
        z, reset = (
            x[:, : 2 * hidden] + nnf.linear(h, r[: 2 * hidden], bias[: 2 * hidden])
        ).chunk(2, -1)
        z, reset = f[0](_clipped(call, z)), f[0](_clipped(call, reset))
        if after:
            inner = reset * nnf.linear(h, r[2 * hidden :], bias[2 * hidden :])
        else:
            inner = nnf.linear(reset * h, r[2 * hidden :], bias[2 * hidden :])
        new = f[1](_clipped(call, x[:, 2 * hidden :] + inner))
        return ((1 - z) * new + z * h,)

    return step


def _rnn_cell(
    call: Call, r: Tensor, bias: Tensor, f: list[Activation], _: Tensor | None
) -> CellStep:
    return lambda x, states: (f[0](_clipped(call, x + nnf.linear(states[0], r, bias))),)


@operator("LSTM")
def lstm(call: Call, *inputs: Tensor | None) -> tuple[Tensor, ...]:
    return _recurrent(call, inputs, 4, ["Sigmoid", "Tanh", "Tanh"], _lstm_cell, 2)


@operator("GRU")
def gru(call: Call, *inputs: Tensor | None) -> tuple[Tensor, ...]:
    return _recurrent(call, inputs, 3, ["Sigmoid", "Tanh"], _gru_cell, 1)


@operator("RNN")
def rnn(call: Call, *inputs: Tensor | None) -> tuple[Tensor, ...]:
    return _recurrent(call, inputs, 1, ["Tanh"], _rnn_cell, 1)
