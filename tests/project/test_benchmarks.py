"""The list of benchmarks is whole, and every table of the pages is printed by one of them."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.__main__ import FOLDER, PAGES, TABLE, modules
from tests.paths import ROOT

#: Run by another Python, with MXNet, for `mxnet_zoo`.
COUNTERPARTS = {"benchmarks.mxnet_real"}


def test_every_benchmark_is_listed() -> None:
    listed = {name.replace(" ", ".") for name in modules()}
    on_disk = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in FOLDER.rglob("*.py")
        if "__main__" in path.read_text() and not path.name.startswith("__")
    }
    assert on_disk - listed == COUNTERPARTS
    assert len(listed) >= 14


def test_the_list_says_what_each_shows() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(modules())
    for line, (name, text) in zip(lines, modules().items(), strict=True):
        assert line.startswith(f"python -m {name} ") and line.endswith(f"  {text}")


def test_every_table_is_printed_by_a_benchmark() -> None:
    texts = [page.read_text() for page in PAGES]
    commands = [match["command"] for text in texts for match in TABLE.finditer(text)]
    ends = sum(text.count("<!-- end -->") for text in texts)
    assert len(commands) == len(set(commands)) == ends
    for command in commands:
        assert any(f"{command} ".startswith(f"python -m {name} ") for name in modules())
