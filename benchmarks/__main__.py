"""List the benchmarks, or write tables of them into the pages of docs/ that show them.

    python -m benchmarks                      what there is
    python -m benchmarks write                every table of the pages anew (hours)
    python -m benchmarks write zoo latency    the tables of these alone

A table is what a command prints; a page keeps it with the command, the date and the processor.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
PAGES = [
    FOLDER.parent / "docs" / name
    for name in ("benchmarks.md", "binary.md", "training.md", "data.md")
]

#: A table of a page: the comment holds the command that prints it.
TABLE = re.compile(
    r"<!-- (?P<command>python -m benchmarks\.[^>]*?) -->\n(?P<content>.*?)<!-- end -->",
    re.DOTALL,
)


def modules() -> dict[str, str]:
    """What each benchmark shows, by the name that `python -m` takes."""
    shown = {}
    for path in sorted(FOLDER.rglob("*.py")):
        parts = path.relative_to(FOLDER.parent).with_suffix("").parts
        tree = ast.parse(path.read_text())
        docstring = ast.get_docstring(tree)
        if docstring and not path.name.startswith("__") and "python -m" in docstring:
            name = ".".join(parts)
            if parts[1] == "training":
                name = f"benchmarks.training {parts[-1]}"
            shown[name] = docstring.splitlines()[0]
    return shown


def processor() -> str:
    """The processor as the system names it, and how many cores of it there are."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        text = cpuinfo.read_text()
        match = re.search(r"model name\s*: (.*)", text)
        name = match[1].strip() if match else name
        name += " with AVX-512 VNNI" if "avx512_vnni" in text else " without AVX-512 VNNI"
    return f"{name}, {os.cpu_count()} cores"


def measure(command: str) -> str:
    """Run a benchmark; its output with the command, the date and the processor above it."""
    words = [sys.executable, *command.split()[1:]]
    done = subprocess.run(
        words, cwd=FOLDER.parent, stdout=subprocess.PIPE, text=True, check=True
    )
    today = datetime.date.today().isoformat()
    text = done.stdout.strip()
    shown = text if text.startswith("|") else f"```text\n{text}\n```"
    return f"`{command}`, {today}, {processor()}:\n\n{shown}\n"


def write(names: list[str]) -> None:
    """Replace tables of the pages; each as soon as it is measured."""
    chosen = [
        (page, match["command"])
        for page in PAGES
        for match in TABLE.finditer(page.read_text())
    ]
    if names:
        chosen = [
            (page, c)
            for page, c in chosen
            if any(re.fullmatch(rf"python -m benchmarks\.{n}( .*)?", c) for n in names)
        ]
    if not chosen:
        pages = " and ".join(page.name for page in PAGES)
        sys.exit(f"error: {pages} have no table of {', '.join(names)}")
    for page, command in chosen:
        print(command, flush=True)
        content = measure(command)
        table = f"<!-- {command} -->\n{content}<!-- end -->"
        page.write_text(
            TABLE.sub(
                lambda m, t=table, c=command: t if m["command"] == c else m[0],
                page.read_text(),
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0]
    )
    parser.add_argument("action", nargs="?", choices=["list", "write"], default="list")
    parser.add_argument(
        "names", nargs="*", help="which benchmarks to write, as zoo or 'accuracy tasks'"
    )
    given = parser.parse_args()
    if given.action == "write":
        write(given.names)
        return
    width = max(map(len, modules()))
    for name, text in modules().items():
        print(f"python -m {name:{width}}  {text}")


if __name__ == "__main__":
    main()
