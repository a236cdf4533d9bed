"""Take the pictures of docs/images anew, from real runs: `python docs/screenshots.py`.

The report needs Debian's chromium-headless-shell, or chromium.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"

#: What the terminal shows; the second command writes the report.
COMMANDS = [
    "prunegraph inspect fixtures/fashion_resnet.onnx",
    "prunegraph prune fixtures/fashion_resnet.onnx -o half.onnx --macs 0.5 --round-to 1"
    " --data fixtures/fashion_calibration.npz --report report.html",
]
COLUMNS = 120

#: A line of progress, which a terminal wipes out.
SPINNER = re.compile("[\u2800-\u28ff] ")

#: Chromium's number of a color scheme, by the name of the picture.
SCHEMES = {"report.png": 1, "report-dark.png": 0}


def terminal(folder: Path) -> str:
    """Run the commands in a folder; the screen as SVG."""
    environment = {
        **os.environ,
        "COLUMNS": str(COLUMNS),
        "FORCE_COLOR": "1",
        "PYTHONPATH": str(ROOT),
    }
    screen = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115
    for command in COMMANDS:
        screen.print(Text(f"$ {command}", style="bold"))
        words = [sys.executable, "-m", *shlex.split(command)]
        done = subprocess.run(
            words,
            cwd=folder,
            env=environment,
            text=True,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for line in Text.from_ansi(done.stdout.strip()).split():
            if not SPINNER.match(line.plain):
                screen.print(line)
    svg = screen.export_svg(title="prunegraph", unique_id="terminal")
    # Fonts of other hosts are not loaded; the browser's own monospaced one stands in.
    return re.sub(r"@font-face \{.*?\}\n?", "", svg, flags=re.DOTALL)


def photograph(page: Path, picture: Path, scheme: int) -> None:
    """Open a page in a browser without a window; the top of it as PNG."""
    browser = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if browser is None:
        sys.exit("error: no browser: install Debian's chromium-headless-shell")
    words = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--window-size=1000,1200",
        f"--blink-settings=preferredColorScheme={scheme}",
        f"--screenshot={picture}",
        page.as_uri(),
    ]
    subprocess.run(words, check=True, capture_output=True)


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "fixtures").symlink_to(ROOT / "fixtures")
        (IMAGES / "terminal.svg").write_text(terminal(folder))
        for picture, scheme in SCHEMES.items():
            photograph(folder / "report.html", IMAGES / picture, scheme)


if __name__ == "__main__":
    main()
