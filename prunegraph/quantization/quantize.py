"""A float graph in, a graph that ONNX Runtime runs in integers out, with a report of what that costs.

Without training and without labels: BatchNormalization folded, ranges from histograms of unlabelled data, weights
rounded (to the nearest code or by GPTQ), biases corrected, layers put back into float where a tolerance asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypedDict, Unpack

import numpy as np

from prunegraph.errors import DataError, ModelError, OptionError, UnknownNameError
from prunegraph.graph import linear
from prunegraph.graph.model import Graph
from prunegraph.keywords import takes_options
from prunegraph.measuring import metrics
from prunegraph.measuring.metrics import Seen
from prunegraph.measuring.sqnr import FETCH, dequantized, sqnr
from prunegraph.quantization import mixed
from prunegraph.quantization.calibrate import (
    Given,
    Scales,
    calibrate,
    check_given,
    finder,
    watched,
)
from prunegraph.quantization.constants import settle
from prunegraph.quantization.correct import mean_rows, shifts
from prunegraph.quantization.equalize import equalize as equalized
from prunegraph.quantization.histogram import Histogram
from prunegraph.quantization.mixed import put_back
from prunegraph.quantization.placement import Placement, kept_names, place
from prunegraph.quantization.report import LayerReport, layer_reports
from prunegraph.quantization.saturation import (
    WeightRange,
    held_type,
    reduction,
    weight_range,
)
from prunegraph.quantization.scheme import TYPES, Params, Scheme
from prunegraph.quantization.scheme import scheme as scheme_of
from prunegraph.quantization.spelling import spelled_out
from prunegraph.quantization.weights import Codes, least_scales, quantized
from prunegraph.quantization.write import (
    PER_CHANNEL,
    QuantizedLayer,
    float_bias,
    needed_opset,
    write,
)
from prunegraph.rewriting.fold import fold
from prunegraph.rewriting.gemm import plain_gemms
from prunegraph.rewriting.opset import raise_opset
from prunegraph.rewriting.reweight import Revision
from prunegraph.runtime.data import Batch, Data, Samples
from prunegraph.runtime.session import run_batches, session
from prunegraph.runtime.statistics import Statistics, batch_size

Array = np.ndarray
Progress = Callable[[str], None]

#: Samples on which noise is measured at most, spread over all.
REPORTED = 64

ROUNDINGS = ("nearest", "gptq")


@dataclass(frozen=True)
class QuantizeResult:
    """What `quantize` made.

    Args:
        model: the quantized graph.
        layers: a report of every layer, in order, also of those left in float.
        ranges: scale and zero point of every quantized value; `quantize(ranges=...)` takes them again.
        outputs: SQNR of the outputs in dB: of ONNX Runtime's default session of the quantized graph, on this
            processor, against the graph that was given; empty without data.
        loss: how much worse the metric is than in float, where a tolerance was given.
        metric: its name.
        weight_range: the codes of int8 weights, and why; None where layers multiply no 8-bit codes.
    """

    model: Graph
    layers: tuple[LayerReport, ...]
    ranges: dict[str, dict[str, float | int]] = field(repr=False)
    outputs: dict[str, float]
    loss: float | None = None
    metric: str = ""
    weight_range: WeightRange | None = None

    @property
    def weakest(self) -> LayerReport | None:
        """The layer at which the SQNR falls most from the measured layer before it, or None without measurements."""
        known = [layer for layer in self.layers if layer.sqnr is not None]
        before = [known[0].sqnr, *(layer.sqnr for layer in known[:-1])] if known else []
        falls = [
            (b or 0.0) - (layer.sqnr or 0.0) for b, layer in zip(before, known, strict=True)
        ]
        return known[int(np.argmax(falls))] if known else None


@dataclass(frozen=True)
class _Ways:
    """How weights are rounded and biases set."""

    rounding: str
    correct: bool


class QuantizeKeywords(TypedDict, total=False):
    """The options of `quantize` as keywords; see `QuantizeOptions`."""

    method: str
    weights: str | None
    activations: str | None
    target: str
    float_layers: Iterable[str]
    tolerance: float | None
    fallback: str
    metric: metrics.Named
    ranges: Given | None
    bias_correction: bool
    equalize: bool
    rounding: str | None
    percentile: float
    block: int
    reduce_range: str | bool


@dataclass(frozen=True)
class QuantizeOptions:
    """How a model is quantized.

    Args:
        method: how ranges follow from what was seen: "mse", "minmax", "percentile" or "entropy".
        weights: "int8" (the default), "int4" (in blocks of `block` inputs) or "int16"; always symmetric.
        activations: "uint8" (the default on the CPU), "int8", "uint16", or "none" for weights alone.
        target: "cpu", "native" (the processor this runs on), "tensorrt", "openvino" or "qnn": whose rules the
            placement follows.
        float_layers: layers that stay in float, by name; "first" and "last" stand for those.
        tolerance: how much worse the metric may become; layers that hurt most are put back until it is met.
        fallback: what they are put back to: "float", or "int16": activations in float and weights in int16, which
            takes half the bytes but more time than float.
        metric: of the tolerance: "error" (squared error relative to the outputs' variation), "agreement", "kl",
            "top1" (needs labels), `file.py:function`, or a function.
        ranges: scale and zero point of tensors from outside, `{tensor: {"scale": s, "zero_point": z}}`, taken as they
            are; for a weight a scale, or one for each output.
        bias_correction: whether biases make up for what rounding the weights shifts on average.
        equalize: whether to equalize ranges between layers first.
        rounding: "nearest", or "gptq"; by default "gptq" for 4-bit weights with data.
        percentile: of the elements, in percent, for that method.
        block: inputs that share a scale of 4-bit weights.
        reduce_range: 7-bit weights, whose products do not saturate on processors without VNNI: "yes" (or True), "no"
            (or False), or "auto": where the target has such processors; "native" is measured.
    """

    method: str = "mse"
    weights: str | None = None
    activations: str | None = None
    target: str = "cpu"
    float_layers: Iterable[str] = ()
    tolerance: float | None = None
    fallback: str = "float"
    metric: metrics.Named = "error"
    ranges: Given | None = None
    bias_correction: bool = True
    equalize: bool = False
    rounding: str | None = None
    percentile: float = 99.99
    block: int = 32
    reduce_range: str | bool = "auto"

    def check_tolerance(self) -> None:
        """Raise OptionError for one that is no number of at least 0."""
        if self.tolerance is not None and not self.tolerance >= 0:
            raise OptionError(
                f"tolerance must be a number of at least 0, got {self.tolerance:g}"
            )


@takes_options(QuantizeOptions)
def quantize(
    model: Graph,
    data: Samples | None = None,
    *,
    progress: Progress = lambda stage: None,
    **options: Unpack[QuantizeKeywords],
) -> QuantizeResult:
    """Quantize a float graph with unlabelled data; `model` is not touched.

    Args:
        model: the model.
        data: inputs from the training distribution, a few hundred; not needed for weights alone.
        progress: called with a line for every step.
        options: those of `QuantizeOptions`: method, weights, activations, target, tolerance, ...

    Raises:
        DataError: there are no data where they are needed, they do not fit, or a value is infinite or not a number.
        ModelError: nothing can be quantized, the model is quantized already, or it does not run.
        OptionError: an option has a value it cannot have.
        UnknownNameError: no such type, target, method, metric, layer or tensor.
    """
    how = QuantizeOptions(**options)
    reduced = reduction(how.reduce_range, how.target)
    scheme = scheme_of(
        how.weights, how.activations, how.target, block=how.block, reduce_range=reduced
    )
    ways = _Ways(
        _rounding(how.rounding, scheme, data is not None),
        how.bias_correction and data is not None,
    )
    how.check_tolerance()
    wide = _wide(scheme, how.fallback)
    find = finder(scheme, how.method, how.percentile)
    kept = kept_names(model, how.float_layers)
    samples = Data.of(data).fit(model) if data is not None else None
    measure = _Measure(model, samples, how.metric) if how.tolerance is not None else None
    progress("fold BatchNormalization")
    base = prepared(model, scheme, data=samples)
    if how.equalize:
        progress("equalize")
        base = equalized(base)
    placement = place(base, scheme, kept)
    given = how.ranges or {}
    check_given(given, placement)
    statistics = (
        Statistics(base, samples, progress=progress) if samples is not None else None
    )
    seen = _seen(placement, statistics, given, how.method)
    make = _Maker(
        statistics,
        scheme,
        Scales(seen, scheme, find, given),
        ways,
        placement,
        progress,
        wide,
    )
    loss = None
    if measure is not None and how.tolerance is not None:
        placement, loss = mixed.within(
            placement, scheme, make, measure, how.tolerance, progress
        )
    progress("write")
    result = make(placement)
    _check_opens(result)
    progress("measure the noise")
    outputs, noise = _noise(model, base, result, placement, samples)
    return QuantizeResult(
        result,
        layer_reports(placement, scheme, make.codes, noise, wide),
        make.ranges(placement),
        outputs,
        loss,
        measure.name if measure else "",
        weight_range(scheme, how.reduce_range, how.target),
    )


def prepared(
    graph: Graph, scheme: Scheme, keep: Collection[str] = (), data: Data | None = None
) -> Graph:
    """The float graph whose values are quantized: parameters are constants, BatchNormalization is folded.

    `keep` are outputs of nodes that are not folded; on `data` a conversion to a newer operator set is checked.
    """
    return fold(plain_gemms(settle(spelled_out(_recent(graph, scheme, data)))), keep)


def _rounding(rounding: str | None, scheme: Scheme, has_data: bool) -> str:
    if rounding is None:
        return "gptq" if scheme.weights.bits < 8 and has_data else "nearest"
    if rounding not in ROUNDINGS:
        raise UnknownNameError("rounding", rounding, ROUNDINGS)
    if rounding == "gptq" and not has_data:
        raise DataError("rounding 'gptq' needs data: give --data, or rounding 'nearest'")
    return rounding


def _wide(scheme: Scheme, fallback: str) -> Scheme | None:
    """The scheme of layers that a tolerance puts back, or None where they go back to float."""
    if fallback not in mixed.FALLBACKS:
        raise UnknownNameError("fallback", fallback, mixed.FALLBACKS)
    if fallback == "float":
        return None
    if fallback not in scheme.target.weights:
        raise OptionError(
            f"the target does not take weights of type {fallback}: use fallback 'float'"
        )
    return replace(scheme, weights=TYPES[fallback], activations=None)


def _recent(graph: Graph, scheme: Scheme, data: Data | None) -> Graph:
    """The graph in an operator set that has the scheme's types, where ONNX Runtime's own operators will not do."""
    # The first operator set with integer kernels. Beside integer activations, a session makes biases in float integers,
    # with a scale for each output.
    is_plain = scheme.integer_bias or scheme.activations is None
    integers = 10 if is_plain else PER_CHANNEL
    needs = (
        scheme.target.symmetric
        or scheme.weights.bits < 8
        or graph.opsets.get("", 1) < integers
    )
    return raise_opset(graph, needed_opset(scheme), data) if needs else graph


def _seen(
    placement: Placement, statistics: Statistics | None, given: Given, method: str
) -> dict[str, Histogram]:
    open_groups = [
        group for group in placement.groups if not any(value in given for value in group)
    ]
    if statistics is not None and placement.groups:
        return calibrate(statistics, watched([placement]), method)
    if open_groups:
        raise DataError(
            f"the range of {open_groups[0][0]!r} needs data: give --data, or weights alone (--activations none)"
        )
    return {}


class _Maker:
    """Makes graphs from placements; what does not depend on the placement is made once."""

    def __init__(
        self,
        statistics: Statistics | None,
        scheme: Scheme,
        scales: Scales,
        ways: _Ways,
        whole: Placement,
        progress: Progress,
        wide: Scheme | None = None,
    ):
        self.statistics, self.scheme, self.scales, self.ways, self.progress = (
            statistics,
            scheme,
            scales,
            ways,
            progress,
        )
        self.wide = wide
        self.codes: dict[int, Codes] = {}
        self._made: dict[tuple[int, float], Codes] = {}
        self._means: dict[int, Array] = {}
        if ways.correct and statistics is not None:
            revision = Revision(whole.graph)
            nodes = [whole.graph.nodes[index] for index in whole.layers]
            nodes = [
                n
                for n in nodes
                if linear.is_linear(whole.graph, n) and revision.can_intercept(n)
            ]
            self._means = mean_rows(statistics, nodes)

    def __call__(self, placement: Placement) -> Graph:
        """The quantized graph of a placement."""
        graph, params = placement.graph, self.scales.of(placement)
        for index in placement.layers:
            self.codes[index] = self._quantized(placement, params, index)
        means = {
            index: mean for index, mean in self._means.items() if index in placement.layers
        }
        revision = Revision(graph)
        for index, shift in shifts(graph, self.codes, means).items():
            node = graph.nodes[index]
            revision.set_intercept(node, revision.intercept(node) + shift)
        placement = replace(placement, graph=revision.apply())
        layers = {
            index: self._layer(placement, index, self.scheme) for index in placement.layers
        }
        if self.wide is not None:
            for index in put_back(placement):
                self.codes[index] = self._rounded(placement, index, self.wide)
                layers[index] = self._layer(placement, index, self.wide)
        return write(placement, self.scheme, params, layers)

    def _layer(self, placement: Placement, index: int, scheme: Scheme) -> QuantizedLayer:
        bias = float_bias(placement.graph, placement.graph.nodes[index])
        codes = self.codes[index]
        return QuantizedLayer(codes, held_type(codes.codes, codes.axis, scheme), bias)

    def _rounded(self, placement: Placement, index: int, scheme: Scheme) -> Codes:
        """A weight with nothing else of its layer in integers."""
        node = placement.graph.nodes[index]
        return quantized(
            node,
            linear.LinearLayer(placement.graph, node).weighted().astype(np.float32),
            scheme,
        )

    def ranges(self, placement: Placement) -> dict[str, dict[str, float | int]]:
        """Scale and zero point of every quantized value."""
        params = self.scales.of(placement)
        return {
            value: {"scale": params[group].scale, "zero_point": params[group].zero_point}
            for value, group in placement.group_of.items()
        }

    def _quantized(self, placement: Placement, params: list[Params], index: int) -> Codes:
        graph, node = placement.graph, placement.graph.nodes[index]
        # Where the bias stays in float, ONNX Runtime may still make it int32.
        scale = (
            params[placement.group_of[node.inputs[0]]].scale
            if self.scheme.activations is not None
            else 0.0
        )
        if (index, scale) not in self._made:
            weight = linear.LinearLayer(graph, node).weighted().astype(np.float32)
            bias = float_bias(graph, node)
            least = least_scales(bias, scale) if scale and bias is not None else None
            entry = self.scales.given.get(node.inputs[1])
            given = (
                None
                if entry is None
                else np.atleast_1d(np.asarray(entry["scale"], np.float32))
            )
            gram = self._gram(placement, index)
            self._made[index, scale] = quantized(
                node, weight, self.scheme, least=least, given=given, gram=gram
            )
        return self._made[index, scale]

    def _gram(self, placement: Placement, index: int) -> Array | None:
        """Products of a layer's inputs, around their means where the bias makes up for those."""
        if self.ways.rounding != "gptq" or self.statistics is None:
            return None
        result = self.statistics.gram(placement.graph.nodes[index])
        if result is None:
            return None
        return result.covariance if index in self._means else result.products


class _Measure:
    """How much worse a graph is than the original, by a metric on all data."""

    def __init__(self, graph: Graph, data: Data | None, metric: metrics.Named):
        if data is None:
            raise DataError("a tolerance needs data to measure on: give --data")
        self._data, self._graph = data, graph
        self._metric = metrics.resolve(metrics.portable(metric))
        self.name = self._metric.name
        self._expected = [
            dict(zip(graph.outputs, match, strict=True)) for match in self._run(graph)
        ]
        self._original = self._metric.measure(metrics.itself(self._pairs(self._expected)))

    def __call__(self, graph: Graph) -> float:
        result = (dict(zip(graph.outputs, each, strict=True)) for each in self._run(graph))
        return self._metric.loss(self._metric.measure(self._pairs(result)), self._original)

    def _batches(self) -> Iterator[Batch]:
        return self._data.batches(self._graph)

    def _run(self, graph: Graph) -> Iterator[list[Array]]:
        return run_batches(graph, self._batches(), graph.outputs, fast=True)

    def _pairs(self, result: Iterable[dict[str, Array]]) -> Iterator[Seen]:
        batches = self._data.batches(self._graph, labels=True)
        for inputs, expected, values in zip(batches, self._expected, result, strict=True):
            yield Seen(inputs, expected, values)


def _check_opens(result: Graph) -> None:
    """Raise ModelError where ONNX Runtime does not open the quantized graph as a user would."""
    try:
        session(result, name=result.source)
    except ModelError as error:
        raise ModelError(
            f"quantized {error}; leave the layers around that node in float (--float)"
        ) from error


def _noise(
    graph: Graph, base: Graph, result: Graph, placement: Placement, samples: Data | None
) -> tuple[dict[str, float], dict[str, float]]:
    """SQNR of the outputs against the graph as it was given, and of what layers make against the folded one."""
    if samples is None:
        return {}, {}
    pairs = dequantized(result)
    wanted = dict.fromkeys(
        placement.result(node) for node in base.layers if node.subgraph is None
    )
    inner = {
        name: pairs.get(name, name)
        for name in wanted
        if name in base.outer and name not in graph.outputs
    }
    inner = {name: other for name, other in inner.items() if other in result.outer}
    outputs = {name: name for name in graph.outputs}
    shown_on = samples.spread(REPORTED)
    size = batch_size(base, shown_on, [*inner, *base.outputs], FETCH)
    shown = sqnr(graph, result, shown_on.batches(graph, size), outputs)
    return shown, {
        **(sqnr(base, result, shown_on.batches(base, size), inner) if inner else {}),
        **shown,
    }
