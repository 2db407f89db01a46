"""A hand on the editor's canvas: finds nodes and ports as people see them, drags, draws wires, picks from lists."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.support.panel import Panel


class Hand:
    """Works on the editor that a window shows; ``flow`` is the id of the flow that is edited."""

    def __init__(self, panel: Panel, flow: str) -> None:
        self.panel = panel
        self.page: Page = panel.page
        self.flow = flow

    @property
    def canvas(self) -> Locator:
        return self.page.get_by_test_id("canvas")

    def node(self, name: str) -> Locator:
        """The card of a node, by its id; triggers have ``trigger:`` in front."""
        return self.page.locator(f'[data-node="{name}"]')

    def nodes(self) -> list[str]:
        return [str(card.get_attribute("data-node")) for card in self.page.locator("[data-node]").all()]

    def spot(self, x: float, y: float) -> tuple[float, float]:
        """A place on the canvas by its share of width and height."""
        box = self.canvas.bounding_box()
        assert box is not None
        return box["x"] + box["width"] * x, box["y"] + box["height"] * y

    def middle(self, card: Locator) -> tuple[float, float]:
        box = card.bounding_box()
        assert box is not None
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        mouse = self.page.mouse
        mouse.move(*start)
        mouse.down()
        mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, steps=4)
        mouse.move(*end, steps=4)
        mouse.up()

    def drop_kind(self, kind: str, x: float, y: float) -> None:
        """Drag a kind from the palette onto the canvas: ``node log`` or ``trigger manual``."""
        box = self.canvas.bounding_box()
        assert box is not None
        source = self.page.locator(f'[data-kind="{kind}"]')
        source.scroll_into_view_if_needed()
        place: Any = {"x": box["width"] * x, "y": box["height"] * y}
        source.drag_to(self.canvas, target_position=place)

    def wire(self, source: str, port: str, target: str) -> None:
        """Draw a wire from a node's output port to another node."""
        dot = self.node(source).locator(f'[data-port="{port}"]')
        self.drag(self.middle(dot), self.middle(self.node(target)))

    def choose(self, text: str) -> None:
        """Type into the list that is open, and take its first entry."""
        field = self.page.get_by_role("combobox", name="Add a node")
        field.fill(text)
        field.press("Enter")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def save(self) -> None:
        """Save by keys, and wait until the engine has it."""
        with self.page.expect_response(lambda answer: answer.request.method == "PUT" and answer.ok):
            self.press("Control+s")

    def deploy(self, message: str = "") -> None:
        """Deploy by the dialog, and wait until it is live."""
        self.page.get_by_test_id("deploy").click()
        self.page.get_by_test_id("deploy-message").fill(message)
        self.page.get_by_test_id("deploy-now").click()
        expect(self.page.get_by_test_id("deploy-dialog")).to_have_count(0)
        expect(self.page.get_by_test_id("status")).to_contain_text("is live")
