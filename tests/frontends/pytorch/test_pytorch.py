"""PyTorch modules: to graphs and back."""

from __future__ import annotations

import io
import json
import shutil
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import prunegraph as pg
from prunegraph.errors import ExactnessError, ModelError, PlanError
from prunegraph.frontends import pytorch
from prunegraph.frontends.pytorch.check import check
from prunegraph.training import GraphModule
from tests.frontends.pytorch.models import MODELS, Mlp, Patches, conv, image

#: Those that the newer exporter reads in the default suite; -m slow reads all with it.
SAMPLE = {"resnet", "shufflenet", "vit_multihead", "lstm", "pyramid", "tied"}

#: What a module's own code cannot hold is trained as a graph: a shuffle whose survivors are not spread evenly.
AS_GRAPH = {("shufflenet", "torchscript"): "differs from the pruned graph"}

CASES = [
    pytest.param(
        name,
        exporter,
        marks=[pytest.mark.slow] if exporter == "dynamo" and name not in SAMPLE else [],
    )
    for name in MODELS
    for exporter in ("torchscript", "dynamo")
]


def leaves(created: Any) -> list[Any]:
    return [
        leaf
        for leaf in torch.utils._pytree.tree_leaves(created)
        if isinstance(leaf, torch.Tensor)
    ]


def outputs(module: Any, inputs: Any) -> list[Any]:
    module.eval()
    with torch.no_grad():
        return leaves(module(*inputs))


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_pruned_modules_are_the_pruned_graphs(
    name: str, exporter: str, tmp_path: Path
) -> None:
    """Half of every group: proved, equal as a module, trainable, and the same again from its plan and state_dict."""
    module, inputs = MODELS[name]()
    training = module.training
    with warnings.catch_warnings():
        # Tracing warns of sizes taken as constants.
        warnings.simplefilter("ignore")
        graph = pg.load(module, inputs, exporter=exporter)
    assert module.training == training
    result = pg.prune(
        graph,
        budget=pg.Budget(ratio=0.5),
        round_to=1,
        attention="heads",
        save_plan=tmp_path / "plan.json",
    )
    assert result.proof is not None
    assert result.after.params < 0.8 * result.before.params

    if (name, exporter) in AS_GRAPH:
        with pytest.raises(ExactnessError, match=AS_GRAPH[name, exporter]):
            pytorch.apply(module, result.plan, pruned=result.model, inputs=inputs)
        pruned, again = GraphModule(result.model), GraphModule(result.model)
        check(pruned, result.model, inputs)
    else:
        pruned = pytorch.apply(module, result.plan, pruned=result.model, inputs=inputs)
    assert sum(p.numel() for p in pruned.parameters()) < 0.8 * sum(
        p.numel() for p in module.parameters()
    )

    pruned.train()
    optimizer = torch.optim.SGD(pruned.parameters(), lr=0.1)
    before = [p.detach().clone() for p in pruned.parameters()]
    sum(leaf.square().mean() for leaf in leaves(pruned(*inputs))).backward()
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in pruned.parameters())
    assert (
        sum(
            not torch.equal(p, old)
            for p, old in zip(pruned.parameters(), before, strict=True)
        )
        >= len(before) / 2
    )

    file = io.BytesIO()
    torch.save(pruned.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    if (name, exporter) in AS_GRAPH:
        again.load_state_dict(state)
    else:
        again = pytorch.load_pruned(
            MODELS[name], pg.Plan.load(tmp_path / "plan.json"), state
        )
    for first, second in zip(outputs(pruned, inputs), outputs(again, inputs), strict=True):
        assert torch.equal(first, second)


def test_weights_have_the_names_of_the_module() -> None:
    module, inputs = MODELS["resnet"]()
    graph = pg.load(module, inputs, exporter="torchscript")
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    floats = {name for name, value in state.items() if value.is_floating_point()}
    assert floats == set(graph.weights) & floats
    for name in floats:
        np.testing.assert_array_equal(
            graph.weights[name].read(), state[name].detach().numpy()
        )
    assert {"0.0", "1.body.0.0", "3.2"} <= {node.name for node in graph.layers}


def test_the_batch_stays_free() -> None:
    """Also where the example has one sample, which exporters would take for a constant."""
    module, _ = MODELS["vgg"]()
    graph = pg.load(module, image(batch=1))
    x = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)
    expected = outputs(module, (torch.from_numpy(x),))[0].numpy()
    from prunegraph.runtime.session import run, session

    np.testing.assert_allclose(
        run(session(graph), {graph.inputs[0]: x})[0], expected, rtol=1e-4, atol=1e-5
    )


def test_inputs_by_name_and_as_arrays() -> None:
    module, inputs = MODELS["cross_attention"]()
    graph = pg.load(
        module, {"y": inputs[1].numpy(), "x": inputs[0].numpy()}, exporter="torchscript"
    )
    assert graph.inputs == ("x", "y")


def test_a_width_of_heads_changes_the_scale_of_scores() -> None:
    """Users' own attention computes it from the width that is left; that is found, not passed over."""
    module, inputs = MODELS["vit_packed"]()
    graph = pg.load(module, inputs, exporter="torchscript")
    result = pg.prune(graph, budget=pg.Budget(ratio=0.5), round_to=1, attention="head_dim")
    with pytest.raises(ExactnessError, match="scale of attention scores"):
        pytorch.apply(module, result.plan, pruned=result.model, inputs=inputs)


def test_torchs_own_attention_keeps_its_scale() -> None:
    module, inputs = MODELS["vit_multihead"]()
    graph = pg.load(module, inputs, exporter="torchscript")
    result = pg.prune(graph, budget=pg.Budget(ratio=0.5), round_to=1, attention="head_dim")
    pytorch.apply(module, result.plan, pruned=result.model, inputs=inputs)


def test_sizes_in_forward_code_are_named() -> None:
    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = conv(3, 8), torch.nn.Linear(8, 4)

        def forward(self, x: Any) -> Any:
            return self.fc(self.conv(x).mean((2, 3)).view(-1, 8))

    module = torch.nn.Sequential(Fixed())
    result = pg.prune(
        pg.load(module, image(), exporter="torchscript"),
        budget=pg.Budget(ratio=0.5),
        round_to=1,
    )
    with pytest.raises(
        ModelError, match=r"module '0' \(Fixed\) has sizes in its own forward code"
    ):
        pytorch.apply(module, result.plan, inputs=(image(),))


def test_masks_of_the_replaced_attention() -> None:
    """Whatever `nn.MultiheadAttention` is given, its replacement answers alike, before anything is pruned."""
    from prunegraph.frontends.pytorch.attention import PrunedAttention, RemainingHeads

    torch.manual_seed(0)
    for batch_first in (False, True):
        old = torch.nn.MultiheadAttention(
            8, 2, batch_first=batch_first, kdim=6, vdim=4
        ).eval()
        new = PrunedAttention(old, RemainingHeads(2, (8, 8, 8), 0.5))
        q, k, v = torch.randn(3, 5, 8), torch.randn(3, 4, 6), torch.randn(3, 4, 4)
        q, k, v = (q, k, v) if batch_first else (each.transpose(0, 1) for each in (q, k, v))
        padding = torch.tensor([[False, False, False, True]] * 3)
        for options in (
            {},
            {"key_padding_mask": padding},
            {"attn_mask": torch.randn(5, 4)},
            {
                "attn_mask": torch.randn(6, 5, 4),
                "key_padding_mask": padding,
                "average_attn_weights": False,
            },
            {
                "need_weights": False,
                "attn_mask": torch.zeros(5, 4, dtype=torch.bool).index_fill(
                    1, torch.tensor([1]), True
                ),
            },
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of masks of different types
                expected, got = old(q, k, v, **options), new(q, k, v, **options)
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_plans_that_do_not_fit() -> None:
    module, inputs = MODELS["vgg"]()
    graph = pg.load(module, inputs, exporter="torchscript")
    plan = pg.prune(graph, budget=pg.Budget(ratio=0.5), round_to=1).plan
    with pytest.raises(PlanError, match="drops branch 'sum'"):
        pytorch.apply(module, replace(plan, branches=("sum",)))
    with pytest.raises(PlanError, match="does not have"):
        pytorch.apply(MODELS["resnet"]()[0], plan)
    with pytest.raises(
        PlanError, match="does not say what goes from the module's parameters"
    ):
        pytorch.apply(MODELS["vgg"]()[0], pg.Plan(plan.model, plan.remove))
    pruned = pytorch.apply(module, plan)
    with pytest.raises(PlanError, match="has the shape"):
        pytorch.apply(pruned, plan)
    with pytest.raises(ModelError, match="not that of the module pruned"):
        pytorch.load_pruned(MODELS["vgg"], plan, module.state_dict())


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", ["resnet", "tied"])
def test_a_plan_without_cuts_says_as_much(name: str, exporter: str) -> None:
    """What goes from the module is derived from the graph: the one at hand, one that is given, or one loaded again."""
    module, inputs = MODELS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = pg.load(module, inputs, exporter=exporter)
    result = pg.prune(graph, budget=pg.Budget(ratio=0.5), round_to=1)
    bare = pg.Plan(result.plan.model, result.plan.remove)
    assert bare.complete(graph).source_cuts == result.plan.source_cuts != ()
    expected = pytorch.apply(module, result.plan).state_dict()
    for given in ({}, {"graph": graph}, {"pruned": result.model, "inputs": inputs}):
        pruned = pytorch.apply(module, bare, **given).state_dict()
        assert expected.keys() == pruned.keys()
        assert all(torch.equal(value, pruned[key]) for key, value in expected.items())


def test_a_module_is_one_model_whoever_loads_it() -> None:
    module, inputs = MODELS["vgg"]()
    first, second = pg.load(module, inputs), (lambda: pytorch.load(module, inputs=inputs))()
    assert first.sha256 == second.sha256
    assert str(Path(__file__).parents[3]) not in str(first.model)


def test_a_module_of_a_file_is_one_model_however_the_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "classes.py").write_text(
        "import torch\n"
        "class Mine(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(4, 2)\n"
        "    def forward(self, x):\n"
        "        return self.layer(x)\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return Mine(), torch.ones(2, 4)\n"
    )
    monkeypatch.chdir(tmp_path)
    graphs = [pg.load(f"{name}:make") for name in ("classes", "classes.py")]
    assert graphs[0].sha256 == graphs[1].sha256
    assert not any(str(tmp_path) in str(graph.model) for graph in graphs)


def test_a_module_is_loaded_again_for_a_plan_without_cuts() -> None:
    module, inputs = MODELS["vgg"]()
    result = pg.prune(pg.load(module, inputs), budget=pg.Budget(ratio=0.5), round_to=1)
    plan, pruned = pg.Plan(result.plan.model, result.plan.remove), result.model
    expected = pytorch.apply(module, result.plan).state_dict()
    del result
    same = MODELS["vgg"]()[0]
    same.load_state_dict(module.state_dict())
    again = pytorch.apply(same, plan, pruned=pruned, inputs=inputs).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in expected.items())
    other = MODELS["vgg"]()[0]
    with torch.no_grad():
        next(other.parameters()).add_(1)
    with pytest.raises(PlanError, match="the plan is for another model"):
        pytorch.apply(other, plan, inputs=inputs)


def test_bad_inputs() -> None:
    module, _ = MODELS["vgg"]()
    with pytest.raises(ModelError, match="needs example inputs"):
        pg.load(module)
    with pytest.raises(ModelError, match=r"do not fit its forward"):
        pg.load(module, (image(), image()))
    with pytest.raises(ModelError, match="exporter must be one of"):
        pg.load(module, image(), exporter="fx")
    with pytest.raises(ModelError, match="is read without 'params_file'"):
        pg.load(module, image(), params_file="x")
    with pytest.raises(ModelError, match="cannot be exported: torchscript: RuntimeError"):
        pg.load(module, image(channels=4), exporter="torchscript")


def test_a_failed_exporter_is_told() -> None:
    class Branch(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = conv(3, 4)

        def forward(self, x: Any) -> Any:
            y = self.net(x)
            return y if y.sum() > 0 else -y

    with pytest.warns(
        UserWarning, match="exported by TorchScript, because the newer exporter failed"
    ):
        pg.load(Branch(), image())


def test_exported_programs(tmp_path: Path) -> None:
    module, inputs = MODELS["resnet"]()
    torch.export.save(torch.export.export(module.eval(), inputs), tmp_path / "net.pt2")
    graph = pg.load(tmp_path / "net.pt2")
    result = pg.prune(graph, budget=pg.Budget(ratio=0.5), round_to=1)
    pytorch.apply(module, result.plan, pruned=result.model, inputs=inputs)
    for name in ("data/constants/opaque_obj_0", "data/aotinductor/model/x.so"):
        shutil.copy(tmp_path / "net.pt2", tmp_path / "code.pt2")
        with zipfile.ZipFile(tmp_path / "code.pt2", "a") as archive:
            archive.writestr(f"net/{name}", b"")
        with pytest.raises(
            ModelError, match=f"holds 'net/{name}', a pickled object or compiled code"
        ):
            pg.load(tmp_path / "code.pt2")
    (tmp_path / "broken.pt2").write_bytes(b"no program")
    with pytest.raises(ModelError, match=r"broken\.pt2: cannot be exported"):
        pg.load(tmp_path / "broken.pt2")


def test_factories_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from prunegraph.cli import main

    (tmp_path / "nets.py").write_text(
        "import torch\n"
        "def small():\n"
        "    torch.manual_seed(0)\n"
        "    layers = torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)\n"
        "    return torch.nn.Sequential(*layers), torch.ones(2, 4)\n"
        "def bare():\n"
        "    return small()[0]\n"
        "def broken():\n"
        "    raise KeyError('weights')\n"
    )
    monkeypatch.chdir(tmp_path)
    np.savez("inputs.npz", input=np.ones((3, 4), np.float32))
    runner = CliRunner()
    created = runner.invoke(
        main,
        [
            "prune",
            "nets:small",
            "-o",
            "out.onnx",
            "--ratio",
            "0.5",
            "--save-plan",
            "plan.json",
        ],
    )
    assert created.exit_code == 0, created.output
    assert {
        cut["weight"] for cut in json.loads(Path("plan.json").read_text())["source_cuts"]
    } == {"0.weight", "0.bias", "2.weight"}
    created = runner.invoke(
        main, ["convert", "nets.py:bare", "-o", "whole.onnx", "--inputs", "inputs.npz"]
    )
    assert created.exit_code == 0, created.output
    assert pg.load("whole.onnx").weights["0.weight"].shape == (16, 4)
    for source, messages in (
        ("nets:bare", "needs example inputs"),
        ("nets:broken", "KeyError: 'weights'"),
        ("nets:none", "AttributeError"),
        ("nowhere:small", "ModuleNotFoundError"),
        ("nowhere.py:small", "no such file"),
    ):
        failed = runner.invoke(main, ["convert", source, "-o", "x.onnx"])
        assert failed.exit_code == 2
        assert messages in failed.output
    assert not Path("x.onnx").exists()


def test_shared_parameters_stay_shared() -> None:
    module, inputs = MODELS["tied"]()
    result = pg.prune(
        pg.load(module, inputs, exporter="torchscript"),
        budget=pg.Budget(ratio=0.5),
        round_to=1,
    )
    pruned = pytorch.apply(module, result.plan, pruned=result.model, inputs=inputs)
    assert pruned.head.weight is pruned.embed.weight


def test_what_is_not_pruned_is_copied() -> None:
    """The original module is never touched."""
    module = Patches(Mlp())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    result = pg.prune(
        pg.load(module, image(), exporter="torchscript"),
        budget=pg.Budget(ratio=0.5),
        round_to=1,
    )
    pytorch.apply(module, result.plan)
    assert all(
        torch.equal(value, before[name]) for name, value in module.state_dict().items()
    )


def test_blocks_that_lose_channels_of_their_own_are_no_slices_of_a_parameter() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 12, 1), nn.ReLU(), nn.Conv2d(12, 4, 3, groups=2)
    ).eval()
    x = torch.randn(2, 3, 8, 8)
    graph = pg.load(module, inputs=(x,))
    options = {"budget": pg.Budget(ratio=0.5), "round_to": 1}
    result = pg.prune(graph, blocks="own", **options)
    assert any(cut.over == 0 for cut in result.plan.cuts)
    with pytest.raises(PlanError, match="other channels in each block"):
        pytorch.apply(module, result.plan, inputs=(x,))
    alike = pytorch.apply(module, pg.prune(graph, **options).plan, inputs=(x,))
    assert alike[0].out_channels == 6
