"""How long it takes until the playground's first view can be used, in a browser that has nothing of it yet.

``python -m benchmarks.playground runs/demo/bundle --out FILE.json``. Each load is in a browser context of its own, so
nothing is cached. A view can be used once its domains are listed and its search box takes words: both come with
``/v1/info``. Times begin where the browser begins to go to the page.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from playwright.sync_api import Browser, Request, sync_playwright

from benchmarks.harness import Figure, at_most, report, shown
from benchmarks.service_process import serving
from benchmarks.service_subject import version_of

_MOST_MS = 1000.0
_LONGEST_MS = 30_000
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_TELL_TIMES = """
const marks = {
  usable: ["main select option", "main input[role=combobox]:enabled"],
  recommended: ["main ol.results li"],
};
const at = window.marksAt = {};
const look = () => {
  for (const [name, selectors] of Object.entries(marks)) {
    if (at[name] === undefined && selectors.every((one) => document.querySelector(one))) at[name] = performance.now();
  }
};
new MutationObserver(look).observe(document, { subtree: true, childList: true, attributes: true });
"""


@dataclass(frozen=True)
class Load:
    """One load of the page.

    Attributes:
        usable_ms: until domains are listed and the search box takes words.
        recommended_ms: until the first recommendations are there.
        requests: how many there were.
        elsewhere: how many of them went to another origin than the page's.
        bytes_moved: of all answers, with their headers.
    """

    usable_ms: float
    recommended_ms: float
    requests: int
    elsewhere: int
    bytes_moved: int


def load_once(browser: Browser, origin: str) -> Load:
    """Open the playground with nothing cached.

    Args:
        origin: where the service listens, without a slash at the end.
    """
    with browser.new_context() as context:
        page = context.new_page()
        page.add_init_script(_TELL_TIMES)
        finished: list[Request] = []
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("requestfinished", lambda request: finished.append(request))
        page.goto(f"{origin}/playground/")
        page.wait_for_selector("main ol.results li", timeout=_LONGEST_MS)
        page.wait_for_load_state("networkidle")
        at = page.evaluate("window.marksAt")
        sizes = [request.sizes() for request in finished]
        return Load(
            usable_ms=at["usable"],
            recommended_ms=at["recommended"],
            requests=len(asked),
            elsewhere=sum(not url.startswith(f"{origin}/") for url in asked),
            bytes_moved=sum(size["responseBodySize"] + size["responseHeadersSize"] for size in sizes),
        )


def load_figures(loads: Sequence[Load]) -> Mapping[str, Figure]:
    """What some loads tell together: the worst one has to be fast enough."""
    usable = [load.usable_ms for load in loads]
    recommended = [load.recommended_ms for load in loads]
    note = f"{len(loads)} loads with nothing cached"
    return {
        "usable_worst_ms": at_most(max(usable), _MOST_MS, "ms", note),
        "usable_median_ms": at_most(float(np.median(usable)), _MOST_MS, "ms", note),
        "recommended_median_ms": shown(
            float(np.median(recommended)), "ms", f"with recommendations; worst {max(recommended):.0f} ms"
        ),
        "requests": shown(max(load.requests for load in loads), "requests", "until nothing more is asked"),
        "bytes": shown(max(load.bytes_moved for load in loads), "bytes", "of all answers, with their headers"),
        "requests_elsewhere": at_most(sum(load.elsewhere for load in loads), 0, "requests", "to another origin"),
    }


def main(
    bundle: Annotated[Path, typer.Argument(help="The bundle to serve.", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    loads: Annotated[int, typer.Option(min=1, help="How often the page is opened.")] = 10,
) -> None:
    """Serve a bundle and open its playground in new browser contexts."""
    found = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    if found is None:
        raise typer.BadParameter("no Chromium is installed; install Debian's package chromium")
    with tempfile.TemporaryDirectory() as folder:
        settings = {"bundle": bundle.resolve(), "database": Path(folder) / "items.db", "playground": "true"}
        with serving(settings) as served, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
            measured = [load_once(browser, f"http://127.0.0.1:{served.port}") for _ in range(loads)]
            version = browser.version
            browser.close()
    context = {"bundle_version": version_of(bundle), "chromium": version}
    report("The playground's first view", load_figures(measured), out, context)


if __name__ == "__main__":
    typer.run(main)
