"""The method `joint`: sparse training, pruning, fine-tuning, quantization-aware training (source 000).

1. Scales of BatchNormalization shrink (`Sparsify`); where it was folded into the weights it is put back for that.
2. Channels with small scales go, over all layers in one list; what is left is repaired from shallow to deep.
3. The smaller model is trained on.
4. It is trained with fake quantization, and written in integers (`QuantizedModule`).

Defaults are those of ALGORITHMS 1.3 to 1.5 where it gives any.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from prunegraph.errors import OptionError
from prunegraph.graph.model import Graph
from prunegraph.training.methods import METHODS, TrainingOptions, TrainResult
from prunegraph.training.module import GraphModule
from prunegraph.training.prune_stage import (
    Pruning,
    budgets,
    check_counts,
    measured,
    rounds_of,
    sampled,
)
from prunegraph.training.qat import Phases, QuantizedModule, check
from prunegraph.training.sparse import Sparsify, penalty
from prunegraph.training.unfold import Unfolded, unfold

#: Largest norm of the gradients in the last stage; a recipe may have a smaller one.
QAT_CLIP = 1.0


@METHODS.register("joint")
def joint(
    graph: Graph,
    setting: TrainingOptions,
    *,
    strength: str | float = "auto",
    sparse_epochs: int = 0,
    tune_epochs: int = 0,
    qat_epochs: int = 0,
    qat_lr: float = 0.1,
    quantize: Literal["int8", "none"] = "int8",
    learn_scales: bool = False,
    macs: float = 0.0,
    params: float = 0.0,
    rounds: int = 1,
    algorithm: str = "bn_scale",
    allocation: str = "global",
    repair: str = "least-squares",
    round_to: int = 8,
    min_channels: int = 8,
    samples: int = 512,
) -> TrainResult:
    """Train sparse, prune, tune, and train with quantization; the result runs in integers.

    Args:
        graph: the model.
        setting: with a budget, or give `macs` or `params`. Its loss is that of all stages: one that distils from the
            original does so in all.
        strength: of the penalty on scales, see `Sparsify`; "auto" is its relative one, 0 leaves the first stage out.
        sparse_epochs: of the first stage; 0 is the recipe's, as for the others.
        tune_epochs: of the third stage, in each round.
        qat_epochs: of the last stage.
        qat_lr: its learning rate, relative to the recipe's.
        quantize: type of the weights, or "none" for a result in float.
        learn_scales: train scales of activations (LSQ) instead of following their ranges.
        macs: a further bound, a fraction or an amount; 0 is none.
        params: a further bound, likewise.
        rounds: of pruning and tuning; several where much has to go.
        algorithm: the criterion.
        allocation: how the budget is shared among groups.
        repair: after each cut.
        round_to: kept channels are a multiple of this.
        min_channels: stay in every group.
        samples: on which statistics, gradients and first ranges are taken.

    Raises:
        OptionError: an option is out of range.
        PrunegraphError: what `prunegraph.prune`, `prunegraph.quantize` and `fit` raise.
    """
    chosen = penalty(strength, "joint")
    if qat_lr <= 0:
        raise OptionError(f"qat_lr must be above 0, got {qat_lr:g}")
    check_counts(
        rounds, sparse_epochs=sparse_epochs, tune_epochs=tune_epochs, qat_epochs=qat_epochs
    )
    bounds = budgets(setting, macs=macs, params=params)
    pruning = Pruning(algorithm, allocation, repair, round_to, min_channels, samples)
    pruning.check(graph, setting.data)
    if quantize != "none":
        check(graph)
    recipe = setting.recipe
    done = TrainResult(graph)
    unfolded = Unfolded(graph)
    if chosen != 0:
        unfolded = unfold(graph, setting.data, seed=recipe.seed)
        module = GraphModule(unfolded.graph)
        run = setting.fit(
            module,
            "sparse",
            recipe=replace(recipe, epochs=sparse_epochs or recipe.epochs),
            callbacks=[Sparsify(module, chosen)],
        )
        trained = module.cpu().write_back(unfolded.graph)
        done = TrainResult(trained).after("sparse", run).with_note(unfolded.note)
    tuning = replace(recipe, epochs=tune_epochs or recipe.epochs)
    done = rounds_of(done, setting, bounds, pruning, tuning, rounds)
    if quantize == "none":
        return replace(done, model=unfolded.folded(done.model))
    # Without batch statistics to normalise by, one large step is enough to lose the network.
    clip = min(recipe.clip or QAT_CLIP, QAT_CLIP)
    last = replace(
        recipe, epochs=qat_epochs or recipe.epochs, lr=recipe.lr * qat_lr, clip=clip
    )
    qat = replace(setting, recipe=last)
    return quantized(done, qat, samples=samples, learn_scales=learn_scales)


def quantized(
    done: TrainResult,
    setting: TrainingOptions,
    *,
    samples: int = 512,
    learn_scales: bool = False,
) -> TrainResult:
    """Train with fake quantization, and write in integers. Raises what `QuantizedModule` and `fit` raise."""
    data = sampled(setting.data, samples, setting.recipe.seed)
    module = QuantizedModule(done.model, data, learn_scales=learn_scales)
    run = setting.fit(module, "qat", callbacks=[Phases(module, setting.steps)])
    pruned = module.cpu().quantized()
    done = replace(done, model=pruned).after("qat", run)
    result = measured(pruned, setting)
    return done.with_record({"stage": "int8", **result}) if result else done
