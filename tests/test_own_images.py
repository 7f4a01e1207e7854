"""The three jobs of somebody with a folder of images, from the command line to the last sentence.

They are: to decide between two tokenizers, to find out why a codebook collapses, and to send the
decision to somebody else on one page.
"""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import free_port, opened, served, show
from forked_kernel import forked_kernels
from PIL import Image
from playwright.sync_api import Locator, Page

from workbench import cli
from workbench.hosts.reports.report import report

pytestmark = [pytest.mark.browser, pytest.mark.kernel, pytest.mark.slow]
NUM_IMAGES = 1000  # of which a tenth is held out
SMALL = "--width 32 --depth 1 --batch-size 32 --warmup-steps 10"


def train(command: str) -> None:
    """Train in this process, which has imported torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["workbench", "train", *shlex.split(command)])
        with pytest.raises(SystemExit) as exit_request:
            cli.main()
    assert not exit_request.value.code, exit_request.value.code


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Return a folder of PNGs without classes: four squares each, of random colors."""
    folder = tmp_path_factory.mktemp("own") / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(NUM_IMAGES):
        colors = random.integers(0, 256, (2, 2, 3), np.uint8)
        pixels = np.kron(colors, np.ones((4, 4, 1), np.uint8))
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def runs(images) -> Path:
    """Return a folder with two tokenizers and a generator on each."""
    folder = images.parent / "runs"
    data = f"--data {shlex.quote(str(images))} --side 8 --codebook-size 32 {SMALL}"
    for tokens in (1, 4):
        tokenizer = f"{folder}/softvq-{tokens}"
        train(f"softvq-photos --out {tokenizer} --num-tokens {tokens} --steps 120 {data}")
        generator = f"{folder}/sit-softvq-{tokens}"
        train(f"sit-photos --tokenizer {tokenizer} --out {generator} --steps 60 {SMALL}")
    return folder


@pytest.fixture(scope="module")
def collapsed(images, runs) -> str:
    """Return the name of a run whose codebook collapses."""
    causes = "--learn gradient --revive 0 --cosine false"
    size = f"--side 8 --num-tokens 8 --codebook-size 128 --steps 60 {SMALL}"
    data = f"--data {shlex.quote(str(images))}"
    train(f"vqvae-photos --out {runs}/vqvae {data} {size} {causes}")
    return "vqvae"


def num_used(summary: Locator) -> int:
    """Return the number of codes used according to the summary on the screen."""
    return int(re.search(r"(\d+) of 128", summary.first.text_content())[1])


@pytest.fixture(scope="module")
def dashboard(runs, collapsed, tmp_path_factory):
    port, log = free_port(), tmp_path_factory.mktemp("log") / "dashboard.log"
    words = ("workbench", "dashboard", str(runs), "--port", str(port), "--no-browser", "--no-token")
    with served(*words, port=port, log=log) as address:
        yield address


@pytest.fixture(scope="module")
def page(dashboard) -> Iterator[Page]:
    """The page of a visitor; at the end, it may not have failed."""
    with opened(f"{dashboard}/?run=softvq-1&run=softvq-4") as (page, seen):
        yield page
        assert seen.errors == [] and seen.outside == []


def test_own_images_lead_to_a_decision(page):
    show(page, "run=softvq-1&run=softvq-4&tab=overview")
    decision = page.get_by_text(re.compile("^Choose softvq-4:.*closer to real images.*gFD"))
    decision.wait_for()
    assert "4 against 1" in decision.text_content()
    assert page.locator(".wb-decision").get_by_text("original").is_visible()


def test_collapsed_codebook_leads_to_a_command_that_uses_more_codes(
    page, dashboard, runs, collapsed
):
    show(page, f"run={collapsed}&analysis=codebook_usage")
    before = num_used(page.get_by_text(re.compile(r"^Collapsed: \d+ of 128 codes")))
    show(page, f"run={collapsed}&analysis=checks")
    cause = re.compile("Probable cause: unused codes are not revived .*Train again")
    command = page.get_by_text(cause).locator("code").text_content()
    words = command.removeprefix("workbench train ")
    train(re.sub("--out [^ ]+", f"--out {runs}/mended", words))
    with opened(f"{dashboard}/?run=mended&analysis=codebook_usage") as (page, _):
        after = page.get_by_text(re.compile(r"^(?!Collapsed)[\w-]+: \d+ of 128 codes"))
        assert num_used(after) > 1.3 * before


def test_decision_is_sent_on_one_page(runs, tmp_path):
    with forked_kernels():
        path = report(
            "brief",
            tmp_path / "brief.html",
            progress=False,
            run=str(runs / "softvq-1"),
            compare_with=str(runs / "softvq-4"),
            title="Four tokens or one",
            conclusion="We train the large model on **four** tokens.",
        )
    with opened(path.as_uri()) as (page, seen):
        assert page.locator("h1").text_content() == "Four tokens or one"
        page.get_by_text(re.compile("^Choose softvq-4:")).wait_for()
        page.get_by_text("We train the large model on four tokens.").wait_for()
        page.wait_for_function("document.querySelectorAll('.main-svg').length > 2")
        sheets = page.pdf(prefer_css_page_size=True)
        assert len(re.findall(rb"/Type\s*/Page\b", sheets)) == 1
        assert seen.errors == [] and seen.outside == []
