# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Light and dark, wide and narrow, left and right, and four languages."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Opener
from tests.support.panel import Panel
from tests.support.samples import LOST, fill
from tests.support.screen import Screen, plain, refused

PHONE = {"width": 360, "height": 740}
#: Every piece of text whose contrast with what lies behind it is below WCAG's AA: 4.5 to 1, 3 to 1 where it is large.
PALE = """() => {
    const parse = (color) => {
        const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number);
        return { rgb: [r, g, b], a };
    };
    const light = (rgb) => {
        const [r, g, b] = rgb.map((value) => {
            value /= 255;
            return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const { rgb, a } = parse(getComputedStyle(at).backgroundColor);
            if (a === 1) return rgb;
        }
        return [255, 255, 255];
    };
    const pale = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const element = node.parentElement;
        if (!node.data.trim() || !element.checkVisibility()) continue;
        if (element.closest("svg, option, script, noscript")) continue;
        const style = getComputedStyle(element);
        const [one, other] = [light(parse(style.color).rgb), light(behind(element))];
        const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        const size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
        if (contrast < (large ? 3 : 4.5)) pale.push(`${node.data.trim()}: ${contrast.toFixed(2)}`);
    }
    return pale;
}"""
#: How far the page, or the dialog on top of it, goes beyond its right or left edge, in pixels.
BEYOND = """() => Math.max(...[document.documentElement, ...document.querySelectorAll("dialog[open]")]
    .map((element) => element.scrollWidth - element.clientWidth))"""


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    with Panel.start(tmp_path_factory.mktemp("panel"), tls=False) as panel:
        made = fill(panel)
        long = "a-name-without-any-place-to-break-it-" * 3
        panel.call("PUT", f"/api/tunnels/{made['thr-ist']['id']}", {"name": long})
        yield panel


def each_view(screen: Screen) -> Iterator[str]:
    """The page, a tunnel in error, the form with everything unfolded and an error, the question before a deletion."""
    expect(screen.row("de-fi")).to_be_visible()
    yield "list"
    screen.open("ist-ams")
    yield "detail"
    screen.page.locator("#detail-delete").click()
    expect(screen.confirm).to_be_visible()
    yield "confirm"
    screen.page.keyboard.press("Escape")
    screen.page.locator("#detail-edit").click()
    screen.more()
    screen.watched.expect("status of 422")
    screen.field("config.mtu").fill("1")
    screen.page.locator("#form-save").click()
    expect(screen.note("config.mtu")).to_be_visible()
    yield "form"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(open_page: Opener, panel: Panel, scheme: str) -> None:
    screen = open_page(panel, color_scheme=scheme)
    assert screen.evaluate("() => getComputedStyle(document.body).backgroundColor") == (
        "rgb(244, 246, 249)" if scheme == "light" else "rgb(18, 22, 29)"
    )
    for view in each_view(screen):
        assert screen.evaluate(PALE) == [], view


def test_marzbans_choice_of_light_or_dark_counts(open_page: Opener, panel: Panel) -> None:
    screen = open_page(panel, color_scheme="light")
    other = screen.page.context.new_page()
    other.goto(panel.url + "/openapi.json")
    other.evaluate("() => { localStorage['chakra-ui-color-mode'] = 'dark' }")
    dark = "() => getComputedStyle(document.body).backgroundColor === 'rgb(18, 22, 29)'"
    expect(screen.page.locator("html")).to_have_attribute("data-theme", "dark")  # at once
    assert screen.evaluate(dark)
    screen.page.reload()
    assert screen.evaluate(dark)


@pytest.mark.parametrize("locale", ["en-GB", "fa-IR", "ru-RU", "zh-CN"])
def test_a_phone_needs_no_sideways_scrolling(open_page: Opener, panel: Panel, locale: str) -> None:
    screen = open_page(panel, viewport=PHONE, locale=locale, has_touch=True)
    expect(screen.page.locator("html")).to_have_attribute("lang", locale[:2])
    for view in each_view(screen):
        assert screen.evaluate(BEYOND) == 0, view
        if view == "list":
            first = screen.rows.first.bounding_box()
            assert first
            assert first["y"] < PHONE["height"] / 3, "the list has room"
            screen.page.locator("#graph-fold summary").click()
            assert screen.evaluate(BEYOND) == 0, "with the map"
            expect(screen.page.locator("#filter-type")).to_be_hidden()
            screen.page.locator("#filters summary").click()
            screen.page.locator("#filter-type").select_option("WireGuard")
            expect(screen.page.locator("#filters-set")).to_have_text({"fa": "۱"}.get(locale[:2], "1"))
            screen.page.locator("#filter-type").select_option("")
            assert screen.evaluate(BEYOND) == 0, "with the filters"
            expect(screen.row("de-fi")).to_contain_text("de-1")


def test_persian_goes_from_right_to_left(open_page: Opener, panel: Panel) -> None:
    screen = open_page(panel)
    expect(screen.page.locator("html")).to_have_attribute("dir", "ltr")
    screen.page.locator("#language").select_option("فارسی")
    expect(screen.page.locator("html")).to_have_attribute("dir", "rtl")
    expect(screen.page).to_have_title("تونل‌ها")
    expect(screen.page.locator("#create")).to_have_text("تونل تازه")
    expect(screen.row("de-fr")).to_contain_text("۱ ساعت پیش")
    expect(screen.row("de-fr")).to_contain_text("کهنه")
    boxes = [screen.page.locator(f"#heads .{name}").bounding_box() for name in ("name", "traffic")]
    assert boxes[0]
    assert boxes[1]
    assert boxes[0]["x"] > boxes[1]["x"]
    screen.open("de-fi")
    box = screen.detail.bounding_box()
    assert box
    assert box["x"] == 0, "from the side where a line ends"
    # where Marzban's dashboard looks for it
    assert screen.evaluate("() => [localStorage.i18nextLng, document.cookie]") == ["fa", "i18next=fa"]
    screen.page.reload()
    expect(screen.page.locator("html")).to_have_attribute("lang", "fa")


def test_what_the_panel_refuses_is_said_in_persian(open_page: Opener, panel: Panel) -> None:
    screen = open_page(panel, locale="fa-IR")
    screen.watched.expect(*refused(409, 422))
    screen.page.locator("#create").click()
    screen.more()
    screen.field("name").fill("تونل آلمان/فنلاند")
    screen.field("config.mtu").fill("7")
    screen.field("config.target.endpoint").fill("127.0.0.1")
    screen.page.locator("#form-save").click()
    expect(screen.note("name")).to_contain_text("در نام پذیرفته نیست")
    assert plain(screen.note("name")).startswith("'تونل آلمان/فنلاند': نویسهٔ '/' ")
    screen.field("name").fill("de-fi")
    screen.page.locator("#form-save").click()
    expect(screen.note("config.mtu")).to_contain_text("باید دست‌کم")
    assert plain(screen.note("config.mtu")).endswith("1280 باشد (داده‌شده: 7)")
    expect(screen.note("config.target.endpoint")).to_contain_text("از هیچ میزبان دیگری در دسترس نیست")
    screen.field("config.mtu").fill("")
    screen.field("config.target.endpoint").fill("")
    screen.page.locator("#form-save").click()
    expect(screen.note("name")).to_contain_text("نام دیگری برگزینید")  # a 409, which is one sentence


def test_the_language_is_the_one_of_marzbans_dashboard(open_page: Opener, panel: Panel) -> None:
    screen = open_page(panel, locale="ru-RU")
    expect(screen.page.locator("html")).to_have_attribute("lang", "ru")
    screen.evaluate("() => { localStorage.i18nextLng = 'zh-CN' }")
    screen.page.reload()
    expect(screen.page.locator("html")).to_have_attribute("lang", "zh")
    screen.evaluate("() => { document.cookie = 'i18next=fa; path=/' }")
    screen.page.reload()
    expect(screen.page.locator("html")).to_have_attribute("lang", "fa")


def test_the_map_shows_whole_names_and_says_what_its_dots_are(open_page: Opener, panel: Panel) -> None:
    nodes = panel.call("GET", "/api/nodes")
    try:
        for node in nodes:
            panel.call("PUT", f"/api/node/{node['id']}", {"name": f"{node['name']}-{'long' * 6}"})
        panel.call("PUT", f"/api/node/{nodes[0]['id']}", {"status": "disabled"})
        screen = open_page(panel, locale="fa-IR")
        expect(screen.page.locator("#graph text").first).to_have_text(re.compile("^.{15}…$"))
        cut = """() => {
            const svg = document.querySelector("#graph svg").getBoundingClientRect();
            return [...document.querySelectorAll("#graph text")].filter((text) => {
                const box = text.getBoundingClientRect();
                return box.left < svg.left || box.right > svg.right || box.top < svg.top || box.bottom > svg.bottom;
            }).map((text) => text.textContent);
        }"""
        assert screen.evaluate(cut) == []
        legend = screen.page.locator("#graph-legend")
        expect(legend).to_contain_text("گره به پنل متصل است")
        expect(legend).to_contain_text("گره غیرفعال")
        screen.page.locator("#graph .node").first.hover()
        expect(legend).to_be_hidden()  # its place is for what is pointed at
        expect(screen.page.locator("#graph-info")).to_contain_text("long" * 6)
    finally:
        for node in nodes:
            panel.call("PUT", f"/api/node/{node['id']}", {"name": node["name"], "status": node["status"]})


def test_the_list_is_sorted_searched_and_filtered(open_page: Opener, panel: Panel) -> None:
    screen = open_page(panel)
    names = screen.rows.locator("button.name")
    expect(screen.page.locator("#heads .status")).to_have_attribute("aria-sort", "ascending")
    expect(names).to_have_count(11)
    assert [name[:6] for name in names.all_text_contents()] == [
        "ist-am",  # in error
        "a-name",  # connecting, also what nothing was reported on
        "thr-fi",
        "de-fr",  # stale
        *("ams-fi", "ams-fr", "de-ams", "de-fi", "de-fi ", "thr-de"),
        "thr-fr",  # switched off
    ]
    screen.page.locator("#heads .name button").click()
    expect(names.first).to_have_text("a-name-without-any-place-to-break-it-" * 3)
    head = screen.page.locator("#heads .name")
    expect(head).to_have_attribute("aria-sort", "ascending")
    head.get_by_role("button").click()
    expect(head).to_have_attribute("aria-sort", "descending")
    expect(names.first).to_have_text("thr-fr old")
    screen.page.locator("#heads .rtt button").click()
    expect(names.first).to_have_text("thr-de")  # 88 ms; who has none is last

    def shown(*expected: str) -> None:
        expect(names).to_have_count(len(expected))
        assert set(names.all_text_contents()) == set(expected)

    # an error is said in its row, and of what was measured it is said at which end
    expect(screen.row("ist-ams").locator(".why")).to_have_text(LOST)
    expect(screen.row("ist-ams").locator(".traffic")).to_be_hidden()
    assert plain(screen.row("de-ams backup").locator(".traffic > span").last).startswith("nl-ams-1↓")
    screen.search.fill("IPSEC  nl-AMS")
    shown("ist-ams", "de-ams backup")
    screen.search.fill("10.201.0.9")  # an address, and where an error speaks of it
    shown("de-fi", "ist-ams")
    screen.page.get_by_role("group", name="Only this status").get_by_role("button", name="error").click()
    shown("ist-ams")
    screen.page.get_by_role("button", name="Clear filters").click()
    screen.page.get_by_label("Only this type").select_option("OpenVPN")
    screen.page.get_by_label("Only this node").select_option("ir-thr-1")
    shown("thr-de", "thr-fr old")
    screen.page.get_by_label("Only this type").select_option("All types")
    screen.page.get_by_label("Only this node").select_option("All nodes")
    screen.page.locator("#chips").get_by_role("button", name="stale").click()
    shown("de-fr")  # and none of those that nothing was reported on
    screen.search.fill("nothing is called so")
    expect(screen.page.locator("#empty")).to_have_text("No tunnel matches the filters.")


def test_the_detail_shows_both_ends(open_page: Opener, panel: Panel) -> None:
    screen = open_page(panel)
    screen.open("de-fi openvpn")
    for text in (
        "203.0.113.7",
        "198.51.100.9",
        "AES-256-GCM",
        "X25519MLKEM768",
        "a process",
        "512 days",
        "28 ms",
        "mz5",
    ):
        expect(screen.detail).to_contain_text(text)
    ends, facts = (screen.page.locator(f"#detail-{part}").bounding_box() for part in ("ends", "facts"))
    assert ends
    assert facts
    assert ends["y"] < facts["y"]
    assert plain(screen.page.locator("#detail-ends thead")) == "Sourcede-1Targetfi-1"
    assert "Who dialsboth endsTransportUDP" in plain(screen.page.locator("#detail-facts"))
    record = screen.tunnel("de-fi openvpn")
    for end in record["ends"]:
        expect(screen.detail).to_contain_text(end["public"]["public_key"])
        expect(screen.detail).to_contain_text(end["public"]["fingerprint"][:16])
        for address in end["addresses"]:
            expect(screen.detail).to_contain_text(address)
    screen.page.keyboard.press("Escape")
    screen.open("ist-ams")
    expect(screen.page.locator("#detail-errors")).to_contain_text("look whether UDP 4500 is open on tr-ist-1")
