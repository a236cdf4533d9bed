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
