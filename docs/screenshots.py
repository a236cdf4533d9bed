"""Take the pictures of docs/images anew, from real runs: `python docs/screenshots.py`.

The report needs Debian's chromium-headless-shell, or chromium, and the extra `browser`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"

#: What the terminal shows; the second command writes the report.
COMMANDS = [
    "prunegraph inspect fixtures/fashion_resnet.onnx",
    "prunegraph prune fixtures/fashion_resnet.onnx -o half.onnx --macs 0.5 --round-to 1 --ranks never"
    " --data fixtures/fashion_calibration.npz --report report.html",
]
COLUMNS = 120

#: What writes the page with times of layers.
TIMED = (
    "prunegraph prune fixtures/fashion_resnet.onnx -o fast.onnx --latency 0.6 --round-to 1"
    " --data fixtures/fashion_calibration.npz --report times.html"
)

#: A line of progress, which a terminal wipes out.
SPINNER = re.compile("[\u2800-\u28ff] ")


@dataclass(frozen=True)
class Shot:
    """A picture of a report: colour scheme, size of the window, the section it begins with, what is clicked on."""

    scheme: str
    width: int
    height: int
    section: str = ""
    click: str = ""
    page: str = "report.html"


#: Pictures of the report by file.
SHOTS = {
    "report.png": Shot("light", 1000, 1200),
    "report-dark.png": Shot("dark", 1000, 1200),
    "network.png": Shot("light", 1400, 860, "network", "why-4"),
    "network-dark.png": Shot("dark", 1400, 860, "network", "why-4"),
    "report-narrow.png": Shot("light", 390, 820, "network", "why-1"),
    "times.png": Shot("light", 1000, 960, "times", page="times.html"),
    "times-dark.png": Shot("dark", 1000, 960, "times", page="times.html"),
}


def run(command: str, folder: Path) -> str:
    """Run a command in a folder; what it said."""
    environment = {
        **os.environ,
        "COLUMNS": str(COLUMNS),
        "FORCE_COLOR": "1",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)],
        cwd=folder,
        env=environment,
        text=True,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.stdout


def terminal(folder: Path) -> str:
    """Run the commands in a folder; the screen as SVG."""
    screen = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115
    for command in COMMANDS:
        screen.print(Text(f"$ {command}", style="bold"))
        for line in Text.from_ansi(run(command, folder).strip()).split():
            if not SPINNER.match(line.plain):
                screen.print(line)
    svg = screen.export_svg(title="prunegraph", unique_id="terminal")
    # Fonts of other hosts are not loaded; the browser's own monospaced one stands in.
    return re.sub(r"@font-face \{.*?\}\n?", "", svg, flags=re.DOTALL)


def photograph(browser: Any, page: Path, picture: Path, shot: Shot) -> None:
    """Open a page in a browser without a window and without network, and keep what it shows."""
    context = browser.new_context(
        color_scheme=shot.scheme,
        viewport={"width": shot.width, "height": shot.height},
        reduced_motion="reduce",
        offline=True,
    )
    tab = context.new_page()
    tab.goto(page.as_uri())
    if shot.section:
        tab.evaluate("id => document.getElementById(id).scrollIntoView()", shot.section)
    if shot.click:
        tab.click(f"a[href='#{shot.click}'] >> nth=0")
        tab.mouse.move(0, 0)
    tab.screenshot(path=picture)
    context.close()


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "fixtures").symlink_to(ROOT / "fixtures")
        (IMAGES / "terminal.svg").write_text(terminal(folder))
        run(TIMED, folder)
        with sync_playwright() as driver:
            path = shutil.which("chromium-headless-shell") or shutil.which("chromium")
            browser = driver.chromium.launch(executable_path=path)
            for picture, shot in SHOTS.items():
                photograph(browser, folder / shot.page, IMAGES / picture, shot)
            browser.close()


if __name__ == "__main__":
    main()
