"""The runtimes that there are, by name. Importing this module fills the registry."""

from __future__ import annotations

from prunegraph.runtime import onnx_runtime, openvino_runtime
from prunegraph.runtime.engine import RUNTIMES, Runtime

OnnxRuntime, OpenVino = onnx_runtime.OnnxRuntime, openvino_runtime.OpenVino

#: The runtime whose results count.
DEFAULT = OnnxRuntime.name


def find(name: str = DEFAULT, provider: str | None = None, threads: int = 1) -> Runtime:
    """A runtime by its name.

    Args:
        name: what it is registered under.
        provider: its device: an execution provider of ONNX Runtime, a device of OpenVINO; None is the CPU.
        threads: of an operator; 0 leaves it to the runtime.

    Raises:
        UnknownNameError: there is no such runtime, or no such device.
        MissingExtraError: it is not installed.
    """
    return RUNTIMES.get(name)(provider, threads)
