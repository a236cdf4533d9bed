"""Front ends: everything that turns a source into a Graph. Imported as `prunegraph.frontends`.

Importing this package registers the built-in ones.
"""

from prunegraph.frontends import jax, mxnet, onnx_file, pytorch, tensorflow
from prunegraph.frontends.base import FRONTENDS, frontend, read, runs_code, takes

__all__ = [
    "FRONTENDS",
    "frontend",
    "jax",
    "mxnet",
    "onnx_file",
    "pytorch",
    "read",
    "runs_code",
    "takes",
    "tensorflow",
]
