"""The page as a person opens it. A browser comes from the system (`apt install chromium`); CI must have one."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from jobs.evaluation.evaluate import EvaluateJob, evaluate
from jobs.reporting.report import ReportJob, write_report

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        reason = "no chromium on this machine, expected it from `apt install chromium`"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        yield opened
        opened.close()


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(("width_px", "scheme"), [(1200, "light"), (1200, "dark"), (360, "light")])
def test_the_page_opens_without_a_complaint_and_fits_its_window(browser, draw_lake, labelled, width_px, scheme):
    lake = draw_lake(disc="<script>console.error(1)</script>", error='"><img src=x onerror=console.error(2)>')
    if labelled:
        evaluate(EvaluateJob(data=str(lake.data)), lake.settings)
    uri = write_report(ReportJob(), lake.settings).uri
    page = browser.new_page(viewport={"width": width_px, "height": 800}, color_scheme=scheme)
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url[:40]))
    page.goto(f"file://{uri}", wait_until="load")
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file://", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    assert page.locator("article.video svg image").count() == (2 * 3 * 5 if labelled else 3 * 5)
    drawn = "Promise.all([...document.images, ...document.querySelectorAll('image')].map(i => i.decode()))"
    assert page.evaluate(f"{drawn}.then(() => true)")
    page.close()
