"""docs/operators.md says what the rules say."""

from __future__ import annotations

from pathlib import Path

from benchmarks.operators import page, status

PAGE = Path(__file__).parent.parent / "docs" / "operators.md"


def rows(text: str) -> set[str]:
    return {line for line in text.splitlines() if line.startswith("| ")}


def test_the_page_is_up_to_date() -> None:
    """Rows of operators that a newer ONNX Runtime or ONNX adds may be missing, none may differ."""
    written, now = rows(PAGE.read_text()), rows(page())
    operators = {row.split(" | ")[0] for row in written}
    assert not {row for row in now - written if row.split(" | ")[0] in operators}


def test_tiers_have_rules() -> None:
    tier2 = (
        "LSTM GRU RNN Einsum DeformConv GridSample Attention RotaryEmbedding CumSum GatherElements GatherND "
        "ScatterElements ScatterND Tile Trilu MeanVarianceNormalization LRN LpNormalization Upsample RMSNormalization "
        "QLinearConv QLinearMatMul ConvInteger MatMulInteger DynamicQuantizeLinear GroupNormalization DepthToSpace"
    )
    assert {status("", op) for op in tier2.split()} == {"rule"}
    contrib = (
        "GroupQueryAttention MultiHeadAttention SkipLayerNormalization RotaryEmbedding BiasGelu FusedConv FusedMatMul "
        "QuickGelu MatMulNBits"
    )
    assert {status("com.microsoft", op) for op in contrib.split()} == {"rule"}
