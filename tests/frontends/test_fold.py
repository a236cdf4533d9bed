"""Constants that front ends compute."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from prunegraph.frontends.fold import fold

SCALAR = """
<ir_version: 8, opset_import: ["" : 17]>
scalar (float[N, 4] x) => (float[N, 4] y)
<float four = {4}, int64[2] order = {1, 0}, float[4, 4] weight = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}>
{
    two = Sqrt(four)
    transposed = Transpose<perm = [1, 0]>(weight)
    hidden = MatMul(x, transposed)
    y = Mul(hidden, two)
}
"""


def test_constants_keep_their_shapes() -> None:
    """A scalar stays a scalar, as subgraphs and operators that ask for one want it."""
    model = onnx.parser.parse_model(SCALAR)
    folded, _ = fold(model, {}, {})
    weights = {each.name: numpy_helper.to_array(each) for each in folded.graph.initializer}
    assert [node.op_type for node in folded.graph.node] == ["MatMul", "Mul"]
    two, transposed = weights["two"], weights["transposed"]
    assert two.shape == () and two == 2
    assert np.array_equal(transposed, np.arange(1, 17).reshape(4, 4).T)
