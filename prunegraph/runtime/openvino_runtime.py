"""OpenVINO, as one of the runtimes: the extra `[openvino]`.

OpenVINO would compute in bfloat16 on processors that have it, whatever the file says. Here models run in the types of
their file, as in ONNX Runtime, so that what is measured is the model.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prunegraph.errors import MissingExtraError, ModelError, UnknownNameError
from prunegraph.graph.external import write_graph
from prunegraph.graph.model import Graph
from prunegraph.runtime.engine import RUNTIMES, Inputs
from prunegraph.runtime.session import asked_threads

if TYPE_CHECKING:
    import openvino

#: The device that every installation has.
CPU = "CPU"

#: Beginnings of lines in OpenVINO's messages that say where in its code something failed, and not what.
_PLACES = (
    *("Exception from", "Check '", "While validating", "FrontEnd API failed"),
    *("Model wasn't fully converted", "Summary:"),
)


@RUNTIMES.register("openvino")
class OpenVino:
    """OpenVINO: models compiled for the latency of one request at a time.

    Args:
        provider: a device by its name in OpenVINO, as "CPU" or "GPU.0"; None is the CPU.
        threads: of the CPU; 0 leaves it to OpenVINO (see `default_threads`).
        profiled: whether each node's time is kept (see `OpenVinoModel.nodes`), which takes some time itself.
        precision: type of what is computed in floats; None leaves it to OpenVINO.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        UnknownNameError: there is no such device here.
    """

    name: ClassVar[str] = "openvino"
    title: ClassVar[str] = "OpenVINO"

    def __init__(
        self,
        provider: str | None = None,
        threads: int = 1,
        *,
        profiled: bool = False,
        precision: str | None = "f32",
    ):
        self.provider, self.threads = _device(provider), threads
        self._profiled, self._precision = profiled, precision

    def open(self, model: Graph | Path, name: str = "model") -> OpenVinoModel:
        """A model compiled for the device. Raises ModelError where OpenVINO does not take it."""
        if isinstance(model, Path):
            return self._compiled(model, name)
        with tempfile.TemporaryDirectory(
            prefix="prunegraph-", ignore_cleanup_errors=True
        ) as folder:
            path = Path(folder) / "model.onnx"
            write_graph(model, path)
            return self._compiled(path, name)

    def _compiled(self, path: Path, name: str) -> OpenVinoModel:
        try:
            compiled = _core().compile_model(str(path), self.provider, self._config())
        except Exception as error:
            raise ModelError(
                f"{name}: OpenVINO cannot load it: {_reason(error)}"
            ) from error
        return OpenVinoModel(compiled, name)

    def _config(self) -> dict[str, Any]:
        """What a model is compiled with. Devices other than the CPU take no number of threads."""
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "PERF_COUNT": self._profiled,
        }
        if self._precision is not None:
            config["INFERENCE_PRECISION_HINT"] = self._precision
        threads = asked_threads(self.threads)
        if self.provider == CPU and threads:
            config |= {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": "1"}
        return config

    def environment(self) -> dict[str, str]:
        """Version, device, threads and the type of floats."""
        import openvino

        return {
            self.name: str(openvino.__version__),
            "provider": self.provider,
            "threads": str(self.threads),
            "precision": self._precision or "default",
        }

    @property
    def is_one_thread(self) -> bool:
        """True for one thread of the CPU: OpenVINO then computes on the thread that asks."""
        return self.provider == CPU and self.threads == 1


@dataclass(frozen=True)
class ExecutedNode:
    """A node as OpenVINO executed it: name and operator there, kernel (as in "brgconv_avx512_I8"), milliseconds."""

    name: str
    op: str
    kernel: str
    milliseconds: float


class OpenVinoModel:
    """A compiled model with its one request."""

    def __init__(self, compiled: openvino.CompiledModel, name: str):
        self._request, self._name = compiled.create_infer_request(), name
        self._known = {each for port in compiled.inputs for each in port.get_names()}
        self._compiled, self._count = compiled, len(compiled.outputs)

    def run(self, inputs: Inputs) -> list[np.ndarray]:
        """All outputs. Raises ModelError if the run fails."""
        given = {name: array for name, array in inputs.items() if name in self._known}
        try:
            values = self._request.infer(given, share_inputs=True)
        except Exception as error:
            raise ModelError(f"OpenVINO cannot run the model: {_reason(error)}") from error
        return [values[index] for index in range(self._count)]

    def nodes(self) -> list[ExecutedNode]:
        """Nodes that the last run executed, in order; of a model that was opened with `profiled`."""
        return [
            ExecutedNode(
                each.node_name,
                each.node_type,
                each.exec_type,
                each.real_time.total_seconds() * 1e3,
            )
            for each in self._request.get_profiling_info()
            if each.status.name == "EXECUTED"
        ]


@cache
def _core() -> openvino.Core:
    import openvino

    return openvino.Core()


def _device(name: str | None) -> str:
    """A device's name as OpenVINO has it. Raises MissingExtraError or UnknownNameError."""
    try:
        available = _core().available_devices
    except ImportError as error:
        raise MissingExtraError("runtime 'openvino'", "openvino", "openvino") from error
    wanted = (name or CPU).upper()
    if wanted not in available:
        raise UnknownNameError("device of OpenVINO", str(name), available)
    return wanted


def _reason(error: Exception) -> str:
    """The first line of a message that says what failed."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(_PLACES)]
    return (telling or lines or [type(error).__name__])[0][:400]
