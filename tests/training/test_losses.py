"""What of a network's outputs a loss looks at: all of them, each by its kind; and labels that are no labels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

import prunegraph as pg
from prunegraph.errors import DataError, UnknownNameError
from prunegraph.graph.model import Graph
from prunegraph.runtime.data import Data
from prunegraph.training import (
    Batches,
    GraphModule,
    Sparsify,
    TrainingConfig,
    TrainingOptions,
    fit,
    own_labels,
    train,
)
from prunegraph.training.kinds import outputs_of_graph
from prunegraph.training.losses import cross_entropy, distillation, mean_squared
from tests.builders import Builder, residual_net
from tests.training.test_fit import task

Array = np.ndarray
Tensor = torch.Tensor


def positions() -> Graph:
    """Scores [n, positions, classes], as of a token classifier."""
    b = Builder()
    return b.graph(
        b.op("Add", b.op("MatMul", b.input("n", 6, 12), b.weight(12, 9)), b.weight(9))
    )


def positions_last() -> Graph:
    """Scores [n, classes, positions], of a convolution in one dimension."""
    b = Builder()
    return b.graph(b.op("Conv", b.input("n", 12, 6), b.weight(9, 12, 1)))


def pixels() -> Graph:
    """Scores [n, classes, h, w], as of a segmentation."""
    b = Builder()
    return b.graph(b.conv(b.conv(b.input("n", 3, 8, 8), 3, 4), 4, 9))


def turned() -> Graph:
    """Scores [n, h, w, classes]: a convolution and a Transpose."""
    b = Builder()
    return b.graph(
        b.op("Transpose", b.conv(b.input("n", 3, 8, 8), 3, 9), perm=[0, 2, 3, 1])
    )


def ends(*kinds: str) -> Graph:
    """One subgraph with several heads."""
    b = Builder()
    x = b.relu(b.bn(b.conv(b.input("n", 3, 32, 32), 3, 8, strides=[4, 4]), 8))
    outputs = []
    for kind in kinds:
        if kind == "scores":
            outputs.append(
                b.head(x, 8, 5)
                if "head" not in {n.name for n in b.nodes}
                else b.linear(pool(b, x), 8, 5)
            )
        elif kind == "boxes":
            outputs.append(
                b.op("Reshape", b.conv(x, 8, 12, 1), b.const([0, -1, 4], np.int64))
            )
        elif kind == "map":
            outputs.append(
                b.conv(b.relu(b.bn(b.conv(x, 8, 8, strides=[2, 2]), 8)), 8, 7, 1)
            )
        elif kind == "embedding":
            outputs.append(b.linear(pool(b, x), 8, 6))
        elif kind == "chances":
            outputs.append(b.op("Softmax", b.linear(pool(b, x), 8, 6), axis=1))
        else:
            outputs.append(b.op("ArgMax", b.linear(pool(b, x), 8, 6), axis=1))
    model = b.model(*outputs)
    for entry, kind in zip(model.graph.output, kinds, strict=True):
        if kind == "numbers":
            entry.type.tensor_type.elem_type = onnx.TensorProto.INT64
    return pg.load(model)


def pool(b: Builder, x: str) -> str:
    return b.op("Flatten", b.op("GlobalAveragePool", x))


def inputs_of(graph: Graph, count: int = 4) -> dict[str, Tensor]:
    shape = [d.dim_value for d in graph.model.graph.input[0].type.tensor_type.shape.dim][1:]
    return {"x": torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))}


@pytest.mark.parametrize(
    ("make", "axis"), [(positions, 2), (positions_last, 1), (pixels, 1), (turned, 3)]
)
def test_scores_are_a_distribution_over_the_classes(make: object, axis: int) -> None:
    graph = make()  # type: ignore[operator]
    x = inputs_of(graph)
    (wanted,) = GraphModule(graph).eval()(x)
    wanted = wanted.detach()
    mine = wanted + 0.5 * torch.randn(
        wanted.shape, generator=torch.Generator().manual_seed(1)
    )
    moved = mine.clone()
    moved.select(1 if axis == 2 else 2, 3).add_(
        10
    )  # all classes of a position, or of a row of pixels
    loss = distillation(GraphModule(graph), temperature=2)
    value = loss((mine,), x).item()
    assert loss((moved,), x).item() == pytest.approx(value, rel=1e-3)
    p, q = (torch.softmax(each.double() / 2, axis) for each in (wanted, mine))
    assert value == pytest.approx(4 * float((p * (p / q).log()).sum(axis).mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("make", "axis"), [(positions, 2), (positions_last, 1), (pixels, 1), (turned, 3)]
)
def test_labels_are_for_the_classes(make: object, axis: int) -> None:
    graph = make()  # type: ignore[operator]
    x = inputs_of(graph)
    (scores,) = GraphModule(graph).eval()(x)
    cells = scores.movedim(axis, -1)
    labels = torch.randint(
        0, 9, cells.shape[:-1], generator=torch.Generator().manual_seed(2)
    )
    wanted = -torch.log_softmax(cells.double(), -1).gather(-1, labels[..., None]).mean()
    loss = cross_entropy(graph=graph)
    assert loss((scores,), {**x, "labels": labels}).item() == pytest.approx(
        wanted.item(), rel=1e-5
    )
    assert own_labels()((scores,), x).requires_grad


def test_square_scores_are_told_by_the_graph() -> None:
    """[n, 9, 9]: labels fit either axis."""
    b = Builder()
    graph = b.graph(b.op("MatMul", b.input("n", 9, 12), b.weight(12, 9)))
    x, labels = inputs_of(graph), torch.randint(0, 9, (4, 9))
    (scores,) = GraphModule(graph).eval()(x)
    wanted = torch.nn.functional.cross_entropy(scores.reshape(-1, 9), labels.reshape(-1))
    for loss in (cross_entropy(graph=graph), cross_entropy()):
        assert loss((scores,), {**x, "labels": labels}).item() == pytest.approx(
            wanted.item(), rel=1e-5
        )


@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [
        (("scores", "boxes"), ["scores", "values"]),
        (("scores", "scores"), ["scores", "scores"]),
        (("scores", "embedding"), ["scores", "values"]),
        (("map", "map"), ["values", "values"]),
        (("map",), ["values"]),
        (("boxes", "chances"), ["values", "scores"]),
        (("scores", "numbers"), ["scores", "left out"]),
    ],
)
def test_kinds_of_outputs(kinds: tuple[str, ...], wanted: list[str]) -> None:
    graph = ends(*kinds)
    assert [each.kind for each in outputs_of_graph(graph)] == wanted
    teacher, student, x = GraphModule(graph), GraphModule(graph), inputs_of(graph)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    loss = distillation(teacher)
    loss(student.train()(x), x).backward()
    without = {name for name, p in student.named_parameters() if p.grad is None}
    # Only what leads to whole numbers has no gradient.
    assert bool(without) == ("left out" in wanted)
    outputs = [y.detach() for y in teacher(x)]
    assert loss(outputs, x).item() == pytest.approx(0, abs=1e-6)
    for index, kind in enumerate(wanted):
        if kind != "left out":
            moved = [
                y + 10.0 if i == index and kinds[i] != "chances" else y
                for i, y in enumerate(outputs)
            ]
            assert (loss(moved, x).item() > 0.1) == (kind == "values")


def test_values_are_measured_by_their_variance() -> None:
    graph = ends("boxes")
    x = inputs_of(graph)
    (wanted,) = (y.detach().double() for y in GraphModule(graph).eval()(x))
    mine = wanted + torch.randn(wanted.shape, dtype=torch.float64)
    value = distillation(GraphModule(graph))((mine.float(),), x).item()
    assert value == pytest.approx(
        float(((mine - wanted) ** 2).mean() / wanted.var(correction=0)), rel=1e-4
    )
    still = torch.full((4, 3), 2.0)
    assert distillation(Still(still))((still, still + 1), x).item() == pytest.approx(
        0.125, rel=1e-4
    )


class Still(torch.nn.Module):
    """Gives the same two outputs whatever it is asked."""

    def __init__(self, output: Tensor):
        super().__init__()
        self.output = output

    def forward(self, *inputs: object) -> tuple[Tensor, Tensor]:
        return self.output, self.output


def test_kinds_can_be_given() -> None:
    graph = ends("scores", "embedding")
    x, (first, second) = inputs_of(graph), graph.outputs
    outputs = [y.detach() for y in GraphModule(graph).eval()(x)]
    moved = [outputs[0] + 10, outputs[1] + 10]
    far = {
        str(kinds): distillation(GraphModule(graph), kinds=kinds)(moved, x).item()
        for kinds in ({first: "values"}, {second: "scores"}, {second: "left out"})  # type: ignore[dict-item]
    }
    assert [value > 0.1 for value in far.values()] == [True, False, False]
    with pytest.raises(UnknownNameError, match="output"):
        distillation(GraphModule(graph), kinds={"none": "values"})


def test_outputs_that_do_not_fit_are_one_error() -> None:
    one, two = ends("scores"), ends("scores", "boxes")
    x = inputs_of(one)
    outputs = GraphModule(two).eval()(x)
    for loss in (distillation(GraphModule(one)), mean_squared(GraphModule(one))):
        with pytest.raises(DataError, match="2 outputs, the original 1"):
            loss(outputs, x)
        with pytest.raises(DataError, match="output 0 has shape"):
            loss((outputs[0][:, :3],), x)
    numbers = GraphModule(ends("numbers"))
    with pytest.raises(DataError, match="nothing to learn"):
        distillation(numbers)(numbers(x), x)


def test_what_no_gradient_reaches_stays_and_is_named() -> None:
    graph = ends("scores", "map")
    data = {"x": inputs_of(graph, 16)["x"].numpy(), "labels": np.arange(16) % 5}
    module = GraphModule(graph)
    before = {name: tensor.detach().clone() for name, tensor in module.weights().items()}
    recipe = TrainingConfig(epochs=2, lr=0.1, weight_decay=0.1)
    run = fit(module, Batches(data, 4), recipe, callbacks=[Sparsify(module, 0.1)])
    # The head of the map: a convolution, its normalisation, a ReLU, a convolution.
    held = [node.channels.weights.items() for node in graph.nodes[-4:]]
    missed = {
        name
        for weights in held
        for role, name in weights
        if role not in ("mean", "variance")
    }
    assert (
        set(run.unreached or ()) == {module.key(name) for name in missed}
        and len(missed) == 6
    )
    for name in missed:
        assert torch.equal(module.weight(name), before[name]), name
    done = train(
        graph,
        TrainingOptions(Data.of(data), 4, cross_entropy(), recipe),
        "sparse:strength=0.1",
    )
    (note,) = done.notes
    assert all(name in note for name in missed) and "no gradient" in note


def test_all_parameters_are_reached_when_all_outputs_count() -> None:
    graph = ends("scores", "map", "boxes")
    data = {"x": inputs_of(graph, 8)["x"].numpy()}
    done = train(
        graph,
        TrainingOptions(
            Data.of(data),
            4,
            distillation(GraphModule(ends("scores", "map", "boxes"))),
            TrainingConfig(epochs=1, lr=1e-3),
        ),
    )
    assert not [note for note in done.notes if "no gradient" in note]


LABELS: dict[str, tuple[object, str]] = {
    "boxes": (np.zeros((24, 6, 5), np.float32), "shape [24, 6, 5]"),
    "too large": (np.full(24, 5), "run from 5 to 5"),
    "negative": (np.full(24, -1), "run from -1 to -1"),
    "fractions": (np.full(24, 0.5), "they are fractions"),
    "one hot": (np.eye(5)[np.zeros(24, int)], "shape [24, 5]"),
    "text": (np.array(["cat"] * 24), "they are text"),
    "ragged": (
        np.array([np.zeros((i % 3, 5)) for i in range(24)], dtype=object),
        "lists of different lengths",
    ),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_are_no_class_numbers_are_one_error(name: str) -> None:
    labels, message = LABELS[name]
    data = {"x": task(24)["x"], "labels": labels}
    setting = TrainingOptions(Data.of(data), 24, cross_entropy(), TrainingConfig(epochs=1))  # type: ignore[arg-type]
    with pytest.raises(DataError) as error:
        train(residual_net(), setting)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_labels_of_some_samples_only_are_one_error() -> None:
    data = task(48)
    chunks = [{"x": data["x"][:24], "labels": data["labels"][:24]}, {"x": data["x"][24:]}]
    with pytest.raises(DataError, match="only a part"):
        train(
            residual_net(),
            TrainingOptions(Data.of(chunks), 24, cross_entropy(), TrainingConfig(epochs=1)),
        )


def test_whole_numbers_of_any_type_and_ignored_ones_are_labels() -> None:
    outputs, x = (torch.randn(4, 5),), torch.zeros(4, 1)
    wanted = torch.nn.functional.cross_entropy(
        outputs[0][:3], torch.tensor([1, 2, 3])
    ).item()
    for labels in (
        torch.tensor([1.0, 2.0, 3.0, -100.0]),
        np.array([1, 2, 3, -100], np.int32),
    ):
        assert cross_entropy()(outputs, {"x": x, "labels": labels}).item() == pytest.approx(
            wanted
        )  # type: ignore[dict-item]


def test_a_result_that_is_not_finite_is_refused() -> None:
    """The last step may ruin weights after the last loss was looked at."""
    from prunegraph.errors import TrainingError

    def steep(outputs: object, batch: object) -> Tensor:
        return outputs[0].sum() * 1e38 * 1e-30  # type: ignore[index]

    data = Data.of(task(24))
    with pytest.raises(TrainingError, match="lower the learning rate"):
        train(
            residual_net(),
            TrainingOptions(data, 24, steep, TrainingConfig(epochs=1, lr=1e38)),
        )
