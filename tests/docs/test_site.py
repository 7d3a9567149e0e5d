"""The built site on a phone, in a real Chromium."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT
from tests.docs.browser import NAMES, browser, find_chromium

_PHONE = 390
_FOLLOWED = """(() => {
  const width = document.documentElement.clientWidth;
  const broken = [...document.querySelectorAll("td code.name")]
    .filter(code => code.getClientRects().length > 1);
  const wide = [...document.querySelectorAll(".md-content img")].filter(
    image => !image.closest("p").scrollLeft && image.getBoundingClientRect().right > width
      && getComputedStyle(image.closest("p")).overflowX !== "auto");
  return {
    excess: document.documentElement.scrollWidth - width,
    broken: broken.map(code => code.textContent),
    wide: wide.map(image => image.src),
  };
})()"""
_SHOWN = """(() => {
  document.body.dataset.mdColorScheme = "%s";
  return [...document.querySelectorAll(".md-content img")]
    .filter(image => image.getClientRects().length).map(image => image.src);
})()"""
"""The pictures that are visible after a reader has chosen the colors of the page."""
_FITS = {"excess": 0, "broken": [], "wide": []}


def test_pages_fit_a_phone(tmp_path: Path) -> None:
    """No page scrolls horizontally at 390 px, no picture is cut off, and no table breaks a name.

    Pictures have the colors that a reader chooses, not the system's.
    """
    chromium = find_chromium()
    if chromium is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed: the site isn't checked")
    mkdocs = shutil.which("mkdocs", path=str(Path(sys.executable).parent))
    assert mkdocs, "make install"
    site = tmp_path / "site"
    command = [mkdocs, "build", "--strict", "--quiet", f"--site-dir={site}"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    faults = {}
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").glob("*.md")))
    with browser(chromium, tmp_path / "profile") as shown:
        for page in pages:
            shown.show(page, _PHONE)
            found = shown.evaluate(_FOLLOWED)
            if found != _FITS:
                faults[str(page.relative_to(site))] = found
        assert not faults
        for is_dark in (False, True):
            shown.show(site / "index.html", _PHONE, is_dark=is_dark)
            for scheme in ("default", "slate"):
                pictures = shown.evaluate(_SHOWN % scheme)
                assert pictures, "the page has no picture"
                assert all(("-dark" in picture) is (scheme == "slate") for picture in pictures)
