"""A real browser looks at a page: headless Chromium, where the machine has one."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.ending import with_its_parent

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_ASK = "onload=()=>{const e=document.querySelector('iframe').contentDocument.documentElement;document.body.append(`WIDTH ${e.scrollWidth} OF ${e.clientWidth} END`)}"


def widths(page: str, width: int) -> tuple[int, int]:
    """How wide the page is in a window of that width, and how much of it is seen, CSS pixels. Skips the test where there is no browser."""
    browser = next(filter(None, map(shutil.which, _NAMES)), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        outer = Path(folder) / "outer.html"
        frame = f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(page)}"></iframe>'
        outer.write_text(f"<!doctype html><body style='margin:0'>{frame}<script>{_ASK}</script>", encoding="utf-8")
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={folder}/profile",
            "--window-size=1400,1000",
            "--dump-dom",
        ]
        done = subprocess.run(
            [browser, *flags, outer.as_uri()], capture_output=True, text=True, timeout=300, check=True, preexec_fn=with_its_parent
        )
    found = re.search(r"WIDTH (\d+) OF (\d+) END</body>", done.stdout)
    assert found is not None, done.stderr[-500:]
    return int(found[1]), int(found[2])
