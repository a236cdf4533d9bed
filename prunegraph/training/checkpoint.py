"""The state of a training in a file, from which a run that was killed goes on."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from prunegraph.errors import TrainingError
from prunegraph.training.identity import digest_of
from prunegraph.training.run import Callback, Run


class Checkpoint:
    """The state of a run in a file, whole or not at all. Raises TrainingError where its folder does not exist."""

    def __init__(
        self,
        path: Path,
        run: Run,
        callbacks: Sequence[Callback],
        parts: Sequence[object] = (),
    ):
        self.path, self.run, self.callbacks = path, run, callbacks
        if not path.parent.is_dir():
            raise TrainingError(f"{path}: the folder {path.parent} does not exist")
        own = [callback.identity() for callback in callbacks]
        self.origin = digest_of(run.recipe, run.module, own, *parts)

    def write(self) -> None:
        """Write beside the file, then rename."""
        run = self.run
        state = {
            "origin": self.origin,
            "module": run.module.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "callbacks": [callback.state_dict() for callback in self.callbacks],
            "best_weights": run.best_weights,
            "run": {name: getattr(run, name) for name in RESUMED},
        }
        beside = self.path.with_name(self.path.name + ".part")
        torch.save(state, beside)
        os.replace(beside, self.path)

    def resume(self) -> None:
        """Go on where the file says, if there is one. Raises TrainingError if it is of another run."""
        if not self.path.exists():
            return
        device = next(self.run.module.parameters()).device
        try:
            _check_bytes(self.path)
            state = torch.load(self.path, map_location=device, weights_only=True)
        except Exception as error:
            raise TrainingError(
                f"{self.path}: not a checkpoint, or damaged: delete it ({error})"
            ) from error
        try:
            self._take(state)
        except TrainingError:
            raise
        except Exception as error:
            raise TrainingError(
                f"{self.path}: not a checkpoint, or damaged: delete it ({error!r})"
            ) from error

    def _take(self, state: Any) -> None:
        """Go on from a checkpoint's content. Raises TrainingError if it is of another run."""
        if state.get("origin") != self.origin or len(state["callbacks"]) != len(
            self.callbacks
        ):
            raise TrainingError(
                f"{self.path}: belongs to another run: one with another recipe, other callbacks, other data, another "
                "loss, another method or other weights to start from; delete it, or name another file"
            )
        resumed = dict(state["run"])
        wrong = resumed.keys() ^ RESUMED.keys()
        wrong = wrong or {
            n for n, kinds in RESUMED.items() if not isinstance(resumed[n], kinds)
        }
        if wrong:
            raise ValueError(f"its run has a wrong {', '.join(sorted(wrong))}")
        self.run.module.load_state_dict(state["module"])
        self.run.optimizer.load_state_dict(state["optimizer"])
        self.run.best_weights = state["best_weights"]
        for callback, own in zip(self.callbacks, state["callbacks"], strict=True):
            callback.load_state_dict(own)
        for name, value in resumed.items():
            setattr(self.run, name, value)


def _check_bytes(path: Path) -> None:
    """Raise BadZipFile where a part of a file is not what was written: PyTorch does not compare its checksums."""
    with zipfile.ZipFile(path) as parts:
        if (damaged := parts.testzip()) is not None:
            raise zipfile.BadZipFile(f"{damaged} has another checksum")


#: Fields of a run that a checkpoint holds, and what they may be.
RESUMED: dict[str, tuple[type, ...]] = {
    "epoch": (int,),
    "step": (int,),
    "loss": (float,),
    "metric": (float, type(None)),
    "best": (float, type(None)),
    "waited": (int,),
    "stop": (bool,),
    "history": (list,),
    "unreached": (list, type(None)),
}
