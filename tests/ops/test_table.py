"""docs/operators.md says what the rules say."""

from __future__ import annotations

from benchmarks.operators import page, status
from tests.paths import ROOT

PAGE = ROOT / "docs" / "operators.md"


def rows(text: str) -> set[str]:
    return {line for line in text.splitlines() if line.startswith("| ")}


def test_the_page_is_up_to_date() -> None:
    """Rows of operators that a newer ONNX Runtime or ONNX adds may be missing, none may differ."""
    written, now = rows(PAGE.read_text()), rows(page())
    operators = {row.split(" | ")[0] for row in written}
    assert not {row for row in now - written if row.split(" | ")[0] in operators}


#: What networks are made of: sizes and constants, layers and everything between them, rarer and fused operators.
TIER_0 = "Constant Shape Size ConstantOfShape Range Cast Identity EyeLike Dropout"
TIER_1 = (
    "Conv ConvTranspose Gemm MatMul BatchNormalization LayerNormalization InstanceNormalization Relu Clip LeakyRelu "
    "PRelu Elu Selu Sigmoid HardSigmoid HardSwish Tanh Erf Gelu Mish Softplus Softsign Exp Log Sqrt Abs Neg Reciprocal "
    "Floor Ceil Round Sign Sin Cos Not Add Sub Mul Div Pow Mod Min Max Sum Mean Equal Less LessOrEqual Greater "
    "GreaterOrEqual And Or Xor Where MaxPool AveragePool GlobalAveragePool GlobalMaxPool GlobalLpPool LpPool Softmax "
    "LogSoftmax ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSumExp "
    "Reshape Flatten Transpose Squeeze Unsqueeze Concat Split Slice Gather Expand Tile Pad Resize"
)
TIER_2 = (
    "DepthToSpace SpaceToDepth GroupNormalization RMSNormalization Attention RotaryEmbedding Einsum LSTM GRU RNN "
    "CumSum "
    "GridSample DeformConv Upsample LRN LpNormalization MeanVarianceNormalization QuantizeLinear DequantizeLinear "
    "DynamicQuantizeLinear QLinearConv QLinearMatMul ConvInteger MatMulInteger GatherElements GatherND ScatterND "
    "ScatterElements Trilu Col2Im"
)
CONTRIB = (
    "SkipLayerNormalization SkipSimplifiedLayerNormalization MultiHeadAttention GroupQueryAttention RotaryEmbedding "
    "Attention FusedConv FusedGemm FusedMatMul BiasGelu QuickGelu MatMulNBits"
)


def test_tiers_have_rules() -> None:
    """None of them is a barrier; `Constant`, `Shape` and `Size` carry no channels and are evaluated."""
    arithmetic = {
        op for op in f"{TIER_0} {TIER_1} {TIER_2}".split() if status("", op) != "rule"
    }
    assert arithmetic == {"Constant", "Shape", "Size"}
    assert {status("", op) for op in arithmetic} == {"arithmetic"}
    assert {status("com.microsoft", op) for op in CONTRIB.split()} == {"rule"}
