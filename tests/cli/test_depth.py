"""Depth on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import prunegraph as pg
from tests.builders import residual_net
from tests.commands import check_refused, cli


def test_a_branch_goes_and_is_shown(tmp_path: Path) -> None:
    model, out, plan, again, data, groups = (
        tmp_path / name
        for name in ("m.onnx", "o.onnx", "p.json", "a.onnx", "d.npz", "g.json")
    )
    pg.save(residual_net(), model)
    images = np.random.default_rng(0).standard_normal((16, 3, 8, 8))
    np.savez(data, x=images.astype(np.float32))
    done = cli("inspect", model, "--json", groups)
    assert "1 residual branches that can go as a whole" in done.stderr + done.stdout
    [branch] = json.loads(groups.read_text())["branches"]
    assert branch["layers"] == ["block1", "block2"]
    assert branch["macs"] == 2 * 64 * 9 * 8 * 16
    command = ("prune", model, "-o", out, "--macs", "0.5", "--depth", "only")
    check_refused(tmp_path, "prune m.onnx -o o.onnx --macs 0.5 --depth only", "give --data")
    done = cli(*command, "--data", data, "--save-plan", plan, "--repair", "none")
    assert done.returncode == 0, done.stderr
    assert f"branch {branch['name']}" in done.stderr
    assert "dropped" in done.stderr
    assert json.loads(plan.read_text())["branches"] == [branch["name"]]
    assert cli("apply", model, plan, "-o", again).returncode == 0
    assert out.read_bytes() == again.read_bytes()
    assert cli("verify", model, plan, out).returncode == 0


def test_search_sensitivity_and_compress_take_branches(tmp_path: Path) -> None:
    model, data, out, found = (
        tmp_path / name for name in ("m.onnx", "d.npz", "o.onnx", "f.json")
    )
    pg.save(residual_net(), model)
    [branch] = pg.analyze(residual_net()).branches
    images = np.random.default_rng(0).standard_normal((16, 3, 8, 8))
    np.savez(data, x=images.astype(np.float32))
    common = ("--data", data, "--algorithm", "l2", "--repair", "none", "--json", found)
    done = cli("sensitivity", model, *common, "--depth", "auto", "--ratios", "0.5")
    assert done.returncode == 0, done.stderr
    assert "what dropping a branch alone costs" in done.stderr
    content = json.loads(found.read_text())
    assert content["groups"]
    assert [each["name"] for each in content["branches"]] == [branch.name]
    alone = cli("sensitivity", model, *common, "--depth", "only")
    assert "what pruning a group alone" not in alone.stderr
    assert json.loads(found.read_text())["branches"] == content["branches"]
    error = content["branches"][0]["error"]
    done = cli(
        *("search", model, "-o", out, *common, "--depth", "only", "--rotate", "never"),
        *("--method", "bisection", "--metric", "error", "--tolerance", f"{error + 1}"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(found.read_text())["best"]["branches"] == 1
    assert "branches" in done.stderr
    first = out.read_bytes()
    done = cli(
        *("compress", model, "-o", out, *common, "--depth", "only"),
        *("--method", "prune", "--macs", "0.5"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(found.read_text())["branches"] == [branch.name]
    assert f"goes with branch {branch.name}" in " ".join(done.stderr.split())
    assert out.read_bytes() == first
