"""Models on the Hugging Face Hub, from a cache on this machine and without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import prunegraph as pg
from prunegraph.errors import ModelError, PrunegraphError
from prunegraph.frontends import hub
from prunegraph.report.publish import model_card
from tests.builders import residual_net
from tests.paths import ROOT
from tests.report.page import HOSTILE, chain, prune

huggingface_hub = pytest.importorskip(
    "huggingface_hub", reason="the extra [hub] is not installed"
)

COMMIT = "0" * 40


def cached(cache: Path, repo: str, files: dict[str, bytes]) -> None:
    """Put a repository into a cache, in the form that huggingface_hub gives it."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for number, (name, content) in enumerate(files.items()):
        blob, link = folder / "blobs" / f"{number}", folder / "snapshots" / COMMIT / name
        blob.parent.mkdir(exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.symlink_to(os.path.relpath(blob, link.parent))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    pg.save(residual_net(), tmp_path / "net.onnx")
    model = (tmp_path / "net.onnx").read_bytes()
    folder = tmp_path / "hub"
    cached(folder, "org/one", {"README.md": b"", "net.onnx": model})
    cached(
        folder, "org/usual", {"onnx/model.onnx": model, "onnx/model_int8.onnx": b"broken"}
    )
    cached(folder, "org/two", {"a.onnx": model, "b.onnx": model})
    cached(folder, "org/none", {"model.safetensors": b""})
    return folder


def load(cache: Path, address: str) -> subprocess.CompletedProcess[str]:
    """Load in a new process, which reads where the cache is when it starts."""
    code = "import sys, prunegraph as pg; g = pg.load(sys.argv[1]); print(len(g.layers), g.sha256)"
    return subprocess.run(
        [sys.executable, "-c", code, address],
        env={
            **os.environ,
            "HF_HUB_CACHE": str(cache),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_models_come_from_the_cache(cache: Path) -> None:
    graph = pg.load(cache.parent / "net.onnx")
    for address in (
        "hf://org/one",
        "hf://org/usual",
        "hf://org/two/b.onnx",
        "hf://org/one@main/net.onnx",
    ):
        done = load(cache, address)
        assert done.stdout.split() == [str(len(graph.layers)), graph.sha256], done.stderr
    for address, message in (
        ("hf://org/two", "has 2 models; give one, as in hf://org/two/a.onnx"),
        ("hf://org/none", "there is no .onnx file in it"),
        ("hf://org/missing", "hf://org/missing: cannot be fetched"),
        ("hf://org/one/other.onnx", "has no file 'other.onnx'"),
    ):
        done = load(cache, address)
        assert done.returncode == 1 and message in done.stderr.replace("\n", " ")


@pytest.mark.parametrize("address", ["hf://", "hf://name", "hf://a/b@", "hf://../b"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ModelError, match="no address on the hub"):
        hub.fetch(address)


class FakeHub:
    """Keeps what would have been sent."""

    sent: dict[str, bytes]
    private: bool

    def __init__(self, **given: str):
        assert given["library_name"] == "prunegraph"

    def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> None:
        assert repo == "org/small" and exist_ok
        FakeHub.private = private

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> str:
        FakeHub.sent = {p.name: p.read_bytes() for p in Path(folder_path).iterdir()}
        return f"https://huggingface.co/{repo_id}/commit/1"


def test_push(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is sent is the pruned model, the plan that makes it again, and the card."""
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    result = prune(residual_net())
    address = pg.push(result, "org/small", base_model="org/large")
    assert address.endswith("org/small/commit/1") and FakeHub.private
    assert set(FakeHub.sent) == {"model.onnx", "plan.json", "README.md"}
    for name, content in FakeHub.sent.items():
        (tmp_path / name).write_bytes(content)
    again = pg.apply(result.original, pg.Plan.load(tmp_path / "plan.json"))
    pg.save(again, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == FakeHub.sent["model.onnx"]


def test_a_hub_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise OSError("403 Forbidden\nfor url: secret")

    monkeypatch.setattr(FakeHub, "create_repo", refuse)
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    with pytest.raises(PrunegraphError, match=r"^org/small: the hub .*: 403 Forbidden$"):
        pg.push(prune(residual_net()), "org/small")


def test_the_card_says_what_was_done() -> None:
    result = prune(residual_net())
    card = model_card(result, base_model="org/large")
    _, head, text = card.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "onnx",
        "tags": ["onnx", "pruned", "prunegraph"],
        "base_model": "org/large",
    }
    assert result.proof is not None
    assert f"by {result.proof.relative:.1e} of their largest value" in " ".join(
        text.split()
    )
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 5 and len({line.count("|") for line in rows}) == 1
    assert "* Criterion: l2" in text


def test_names_of_files_are_no_markup() -> None:
    graph = chain(2)
    graph.source = f"{HOSTILE[0]}|`x`.onnx"
    card = model_card(prune(graph, verify=False))
    assert "<script" not in card and "The cut was not proved." in card
