"""The playground in a browser, with the hands and eyes of its visitor."""

# Much of selenium is untyped.
# mypy: allow-untyped-calls

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

Stroke = list[tuple[float, float]]
"""Points in sides of the drawing area."""

# The event that a browser sends when files are dropped or pasted.
GIVE = """const [type, contents] = arguments, transfer = new DataTransfer();
for (const [name, b64] of contents) {
  const bytes = Uint8Array.from(atob(b64), (char) => char.charCodeAt(0));
  transfer.items.add(new File([bytes], name));
}
const init = { bubbles: true, cancelable: true, clipboardData: transfer, dataTransfer: transfer };
const event = type === "paste" ? new ClipboardEvent(type, init) : new DragEvent(type, init);
document.body.dispatchEvent(event);"""


class Page:
    """The page, open in ``browser``."""

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.browser.find_elements(By.CSS_SELECTOR, selector)]

    def draw(self, stroke: Stroke, pointer: str = "mouse") -> None:
        canvas = self.find("canvas")
        side = canvas.rect["width"]
        actions = ActionBuilder(self.browser, PointerInput(pointer, pointer), duration=15)
        for i, (x, y) in enumerate(stroke):
            # WebDriver counts from the middle of the element.
            move = round((x - 0.5) * side), round((y - 0.5) * side)
            actions.pointer_action.move_to(canvas, *move)
            if i == 0:
                actions.pointer_action.pointer_down()
        actions.pointer_action.pointer_up()
        actions.perform()

    def give(self, event: str, *files: Path) -> None:
        contents = [[file.name, base64.b64encode(file.read_bytes()).decode()] for file in files]
        self.browser.execute_script(GIVE, event, contents)

    def message(self) -> str:
        """The sentence in the live region; empty while the page waits for an answer."""
        return self.find("[role=status]").text

    def answer(self) -> str:
        self.wait_until(self.message)
        return self.message()

    def wait_until(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.browser, 10, poll_frequency=0.02).until(lambda _: condition())

    def evaluate(self, expression: str) -> Any:
        return self.browser.execute_script(f"return {expression}")

    def replace_fetch(self, function: str) -> None:
        self.browser.execute_script(f"const fetch = window.fetch; window.fetch = {function};")

    def resize(self, width: int, height: int, scale: int) -> None:
        screen = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": True}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)

    def grey(self, x: float, y: float) -> int:
        """Brightness, 0 to 255, of the drawing area at (x, y), in its sides."""
        pixel = f"{x} * canvas.width, {y} * canvas.height, 1, 1"
        green: int = self.evaluate(f"canvas.getContext('2d').getImageData({pixel}).data[1]")
        return green

    def is_empty(self) -> bool:
        data = "canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data"
        colours = self.evaluate(f"new Set(new Uint32Array({data}.buffer)).size")
        return colours == 1 and self.message() == "" and self.texts("article") == []
