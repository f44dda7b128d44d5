"""The page at ``/playground`` in a real Chromium, against the real service."""

# Much of selenium is untyped.
# mypy: allow-untyped-calls

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.keys import Keys

from tests import programs
from tests.page import Page, Stroke

# Digits as a hand draws them, in sides of the drawing area.
ZERO: Stroke = [(0.5, 0.2), (0.35, 0.3), (0.3, 0.5), (0.35, 0.7), (0.5, 0.8)]
ZERO += [(1 - x, 1 - y) for x, y in ZERO[1:]]
ONE: Stroke = [(0.52, 0.2), (0.5, 0.5), (0.48, 0.8)]
SEVEN: Stroke = [(0.3, 0.25), (0.5, 0.25), (0.7, 0.25), (0.55, 0.55), (0.45, 0.8)]

FLAGS = """--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
    --disable-background-networking --disable-component-update --window-size=1200,900"""

SPY = """async (...request) => {
  const response = await fetch(...request);
  window.seen = await response.clone().json();
  return response;
}"""

# The first answer is held back until it is released, even from the page's own abort.
HOLD = """async (url, { signal, ...rest }) => {
  window.fetch = fetch;
  const response = await fetch(url, rest);
  const content = await response.json();
  response.json = async () => {
    await new Promise((resolve) => { window.release = resolve; });
    setTimeout(() => { window.released = true; });  // once the page has had it
    return content;
  };
  return response;
}"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("chromium and chromedriver are not both on the PATH")
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with Chrome(options, Driver(executable_path=driver)) as chrome:
        yield chrome


@pytest.fixture
def page(browser: Chrome, service: programs.Program) -> Iterator[Page]:
    browser.get_log("browser"), browser.get_log("performance")  # what earlier tests left
    browser.get(f"{service.url}/playground")
    yield Page(browser)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def picture_of(stroke: Stroke, path: Path) -> Path:
    image = Image.new("L", (200, 200), 255)
    if stroke:
        ImageDraw.Draw(image).line([(x * 200, y * 200) for x, y in stroke], fill=0, width=15)
    image.save(path)
    return path


@pytest.fixture
def seven(tmp_path: Path) -> Path:
    return picture_of(SEVEN, tmp_path / "seven.png")


def reads(digit: int, message: str) -> bool:
    sentence = rf"{digit}, \d+\.\d % sure\. Answered by version \S+ in \d+ ms\."
    return re.fullmatch(sentence, message) is not None


@pytest.mark.parametrize(("digit", "stroke"), [(0, ZERO), (1, ONE), (7, SEVEN)])
def test_a_drawn_digit_is_read(page: Page, digit: int, stroke: Stroke) -> None:
    page.replace_fetch(SPY)
    page.draw(stroke)

    assert reads(digit, page.answer())
    seen = page.evaluate("seen")
    shares = [f"{100 * share:.1f} %" for share in seen["predictions"][0]["probabilities"]]
    assert page.message().startswith(f"{digit}, {shares[digit]} sure.")
    assert f"Answered by version {seen['model_version']} in" in page.message()
    assert page.texts(".digit") == [str(digit)]
    assert page.texts(".status") == ["Sure"]
    assert page.texts("tbody th") == list("0123456789")
    assert page.texts("tbody td") == shares
    assert page.texts(".best th") == [str(digit)]


@pytest.mark.parametrize("pointer", ["pen", "touch"])
def test_pen_and_finger_draw_too(page: Page, pointer: str) -> None:
    page.resize(375, 600, scale=2)
    page.draw(ONE[::-1], pointer)  # upwards: elsewhere on the page, this scrolls

    assert reads(1, page.answer())
    assert page.evaluate("scrollY") == 0


def test_what_the_model_saw_is_shown(page: Page) -> None:
    page.draw(SEVEN)
    page.answer()

    source = page.find(".saw img").get_attribute("src") or ""
    picture = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("L")
    assert picture.size == (28, 28)
    assert picture.getpixel((0, 0)) == 0
    assert max(picture.tobytes()) > 200
    assert page.find(".saw img").get_attribute("alt")


def test_in_a_dark_theme_the_ink_is_light_and_the_digit_the_same(page: Page) -> None:
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    page.draw(SEVEN)

    assert reads(7, page.answer())
    assert page.grey(0.05, 0.05) < 50
    assert page.grey(0.5, 0.25) > 200


@pytest.mark.parametrize("way", ["upload", "drop", "paste"])
def test_an_image_file_is_read(page: Page, seven: Path, way: str) -> None:
    if way == "upload":
        page.find("#upload").send_keys(str(seven))
    else:
        page.give(way, seven)

    assert reads(7, page.answer())
    assert page.texts("h2") == ["seven.png"]
    assert page.find(".sent").is_displayed()


def test_each_of_several_images_has_its_card(page: Page, seven: Path, tmp_path: Path) -> None:
    page.give("drop", seven, picture_of(ZERO, tmp_path / "<b>zero.png"))

    assert re.match(r"2 images: 7, 0\. Answered by version \S+ in \d+ ms\.", page.answer())
    assert page.texts("h2") == ["seven.png", "<b>zero.png"]
    assert page.texts(".digit") == ["7", "0"]


def test_a_blank_image_holds_no_digit(page: Page, tmp_path: Path) -> None:
    page.give("drop", picture_of([], tmp_path / "blank.png"))

    assert page.answer().startswith("No digit found. Answered by version")
    assert page.texts(".status") == ["No digit found"]
    assert page.texts(".digit") == ["–"]
    assert page.texts(".best") == []


def test_a_text_file_gets_the_services_error_by_its_name_and_the_page_goes_on(
    page: Page, seven: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("seven")
    page.replace_fetch(SPY)
    page.give("drop", seven, notes)

    answer = page.answer()
    assert page.evaluate("seen.error").replace("instance 1", "notes.txt") in answer
    assert page.texts("article") == []
    assert not page.find("#again").is_displayed()

    page.draw(SEVEN)
    assert reads(7, page.answer())


@pytest.mark.parametrize(
    ("response", "words"),
    [
        ("Promise.reject(new TypeError('Failed to fetch'))", "and are you online?"),
        ("Response.json({error: 'Too busy'}, {status: 429})", "Too busy."),
        ("Response.json({error: 'Too late'}, {status: 504})", "Too late."),
        ("new Response('<h1>Bad Gateway</h1>', {status: 502})", "(status 502)."),
    ],
)
def test_a_failure_that_may_pass_can_be_tried_again(page: Page, response: str, words: str) -> None:
    page.replace_fetch(f"async () => {{ window.fetch = fetch; return {response}; }}")
    page.draw(SEVEN)

    assert page.answer().endswith(words)
    page.wait_until(page.find("#again").is_displayed)
    page.find("#again").click()
    assert reads(7, page.answer())
    assert not page.find("#again").is_displayed()


def test_retry_after_is_kept(page: Page) -> None:
    init = '{ status: 429, headers: { "Retry-After": "3600" } }'
    page.replace_fetch(f"async () => Response.json({{ error: 'Too busy' }}, {init})")
    page.draw(SEVEN)

    assert page.answer().endswith("Too busy. You can try again in 3600 s.")
    assert not page.find("#again").is_displayed()


def test_a_late_answer_to_an_older_drawing_is_not_shown(page: Page) -> None:
    page.replace_fetch(HOLD)
    page.draw(SEVEN)
    page.wait_until(lambda: page.evaluate("Boolean(window.release)"))
    page.find("#clear").click()
    page.draw(ZERO)
    answer = page.answer()
    page.evaluate("release()")
    page.wait_until(lambda: page.evaluate("window.released"))

    assert reads(0, answer)
    assert page.message() == answer
    assert page.texts(".digit") == ["0"]


def test_clear_empties_everything_by_button_and_by_key(page: Page) -> None:
    for clear in (page.find("#clear").click, lambda: page.find("canvas").send_keys(Keys.DELETE)):
        page.draw(SEVEN)
        page.answer()
        assert not page.is_empty()
        clear()
        assert page.is_empty()


def test_undo_takes_back_the_last_stroke_and_asks_again(page: Page) -> None:
    page.draw(SEVEN)
    page.draw([(0.1, 0.9), (0.9, 0.9)])
    page.answer()
    page.find("canvas").send_keys(Keys.CONTROL, "z")

    assert reads(7, page.answer())
    page.find("#undo").click()
    assert page.is_empty()


def test_a_drawing_is_painted_again_at_another_size_and_sharpness(page: Page) -> None:
    page.draw(SEVEN)
    page.resize(320, 640, scale=3)

    page.wait_until(lambda: page.evaluate("canvas.width === 3 * canvas.clientWidth"))
    assert page.grey(0.5, 0.25) < 50


@pytest.mark.parametrize("width", [320, 375, 768, 1400])
def test_nothing_scrolls_sideways(page: Page, seven: Path, width: int) -> None:
    page.resize(width, 640, scale=2)
    long_name = seven.rename(seven.with_name(f"{'seven' * 30}.png"))
    page.give("drop", long_name, long_name)
    page.answer()

    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_every_control_has_a_name_and_is_reached_by_keyboard(page: Page) -> None:
    names = []
    for _ in range(5):
        ActionChains(page.browser).send_keys(Keys.TAB).perform()
        names.append(page.browser.switch_to.active_element.accessible_name)

    assert names == ["Clear", "Undo", "Upload", "Drawing area", "Copy"]


def test_the_command_line_names_this_service(page: Page, service: programs.Program) -> None:
    page.find("#copy").click()
    page.wait_until(lambda: page.find("#copied").text)

    command = f"curl -F images=@digit.png {service.url}/predict"
    assert page.find("#command").text == command
    assert page.evaluate("getSelection().toString().trim()") == command


def test_no_request_leaves_the_service_and_the_console_stays_empty(
    page: Page, service: programs.Program, seven: Path
) -> None:
    page.draw(SEVEN)
    page.answer()
    page.give("drop", seven)
    page.answer()

    log = [json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")]
    requests = [entry["params"] for entry in log if entry["method"] == "Network.requestWillBeSent"]
    urls = [request["request"]["url"] for request in requests]
    assert f"{service.url}/predict?picture=true" in urls
    local = (f"{service.url}/", "data:", "blob:")
    assert [url for url in urls if not url.startswith(local)] == []
    assert page.browser.get_log("browser") == []
