"""A result on the Hugging Face Hub: the model, its plan, and a model card that is written from the result."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prunegraph import __version__
from prunegraph.errors import MissingExtraError, PrunegraphError
from prunegraph.graph.onnx_io import write_whole
from prunegraph.report.html import plan_text, settings
from prunegraph.report.tables import amount, share
from prunegraph.report.text import clean, count_of
from prunegraph.runtime.writing import write

if TYPE_CHECKING:
    from prunegraph.pipeline import PruneResult

#: Characters that would be markup in a table of Markdown.
_MARKUP = str.maketrans({"|": "\\|", "`": "'", "<": "&lt;", "\n": " "})


def push(
    result: PruneResult,
    repo: str,
    *,
    base_model: str | None = None,
    private: bool = True,
    message: str = "Pruned model",
) -> str:
    """Put a result on the hub: `model.onnx`, `plan.json` and a model card. Returns the commit's address.

    Args:
        result: what `prunegraph.prune` returned.
        repo: "org/name"; it is made where there is none.
        base_model: the repository of the model that was pruned, for the card.
        private: whether a repository that is made is private.
        message: of the commit.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        ModelError: the model does not run.
        PrunegraphError: the hub does not take it.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise MissingExtraError("push", "huggingface_hub", "hub") from None
    with tempfile.TemporaryDirectory(prefix="prunegraph-") as name:
        folder = Path(name)
        write(result.model, folder / "model.onnx", like=result.original)
        write_whole(folder / "plan.json", [plan_text(result.plan).encode()])
        card = model_card(result, base_model=base_model)
        write_whole(folder / "README.md", [card.encode()])
        try:
            hub = huggingface_hub.HfApi(
                library_name="prunegraph", library_version=__version__
            )
            hub.create_repo(repo, private=private, exist_ok=True)
            commit = hub.upload_folder(
                repo_id=repo, folder_path=name, commit_message=message
            )
        except Exception as error:  # whatever the network or the hub raises
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise PrunegraphError(f"{repo}: the hub does not take it: {reason}") from error
    return str(commit)


def model_card(result: PruneResult, *, base_model: str | None = None) -> str:
    """A model card in Markdown: cost before and after, how it was made, what was proved.

    Args:
        result: what `prunegraph.prune` returned.
        base_model: the repository of the model that was pruned.
    """
    return "\n".join(_card(result, base_model)) + "\n"


def _card(result: PruneResult, base_model: str | None) -> Iterator[str]:
    name = _cell(Path(result.original.source).stem or "model")
    yield from ("---", "library_name: onnx", "tags: [onnx, pruned, prunegraph]")
    if base_model is not None:
        yield f"base_model: {_cell(base_model)}"
    yield from ("---", "", f"# {name}, pruned", "")
    yield from _costs(result)
    yield ""
    if result.proof is not None:
        runs = count_of(result.proof.runs, "input")
        yield "Proved: the cut model computes what the original computes with the removed channels masked;"
        yield f"outputs differ by {result.proof.relative:.1e} of their largest value at most, on {runs}."
    else:
        yield "The cut was not proved."
    if result.repair != "none":
        yield f"After the cut, weights were repaired: {result.repair}."
    if result.quantized is not None:
        for output, value in result.quantized.outputs.items():
            yield f"Quantized; output {_cell(output)}: {value:.1f} dB of signal to noise."
    yield from ("", "## How it was made", "")
    yield from (f"* {_cell(key)}: {_cell(value)}" for key, value in settings(result.plan))
    yield from ("", f"prunegraph {__version__}; `plan.json` makes the same cut again:", "")
    yield "    prunegraph apply MODEL plan.json -o OUT"


def _costs(result: PruneResult) -> Iterator[str]:
    yield from ("| | before | after | left |", "|---|--:|--:|--:|")
    before, after = result.before, result.after
    for label, a, b in (
        ("multiply-accumulates", before.macs, after.macs),
        ("parameters", before.params, after.params),
        ("bytes of weights", before.bytes, after.bytes),
    ):
        yield f"| {label} | {amount(a)} | {amount(b)} | {share(b, a)} |"
    timing = result.latency
    if timing is not None:
        kept = share(timing.second, timing.first)
        yield f"| latency, ms | {timing.first:.3g} | {timing.second:.3g} | {kept} |"


def _cell(text: str) -> str:
    return str(clean(text)).translate(_MARKUP)
