# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who waits for news gets them at once, waits for no longer than was said, and takes no other's place."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.marzban.tunnels.plugins.module_utils._node.kept import KeptView
from ansible_collections.marzban.tunnels.plugins.module_utils._node.tunnel import Tunnel
from marzban_node import lines
from marzban_node import news as news_module
from marzban_node.board import Board
from marzban_node.news import News
from tests.support import views
from tests.support.world import until

OURS, OTHER, UUID = views.PANEL, "0d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a81", views.UUID
BUSY = 3  # times as long it may take here, where other tests share the machine


def test_each_look_and_each_change_is_news_for_its_panel_alone() -> None:
    board, seen = Board(), set()
    view: Any = views.view()
    tunnel = Tunnel(view)
    tunnel.state, tunnel.status = {"interface": view["interface"], "version": view["version"]}, "active"  # type: ignore[assignment]
    kept = KeptView(view, "r")
    others = board.latest.of(OTHER)

    def is_news(work: Any, *given: Any) -> bool:
        known = board.latest.of(OURS)
        seen.add(known)
        work(*given)
        return board.latest.of(OURS) not in seen

    assert not is_news(board.measured, [tunnel], 0.0), "nothing is known of it"
    assert is_news(board.want, kept)
    assert not is_news(board.measured, [tunnel], time.monotonic()), "it is being changed"
    assert is_news(board.ended, UUID)
    assert is_news(board.measured, [tunnel], time.monotonic())
    assert is_news(board.measured, [tunnel], time.monotonic()), "the same, measured again"
    assert is_news(board.begin, UUID)
    assert is_news(board.ended, UUID, True), "it is removed"
    assert not is_news(board.begin, UUID)
    board.sync({UUID: kept})
    assert is_news(board.sync, {}), "a run has removed it"
    assert board.latest.of(OTHER) == others
    assert News().of(OURS) not in seen, "the service was started again"


def test_who_waits_is_answered_at_once_and_holds_up_nobody() -> None:
    news = News()
    known = news.of(OURS)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(news.wait, OURS, known, 20.0) for _time in range(2)]
        until("both wait", lambda: news._waiting[OURS] == 2)
        news.tell([OTHER])
        begun = time.monotonic()
        news.wait(OTHER, news.of(OTHER), 0.2)
        assert 0.2 <= time.monotonic() - begun < 0.2 + BUSY, "its time is over"
        assert not any(one.done() for one in waiting)
        begun = time.monotonic()
        news.tell([OURS])
        for one in waiting:
            one.result(BUSY)
        news.wait(OURS, known, 20.0)  # there are others already
        news.wait(OURS, "of an earlier start-0", 20.0)
        assert time.monotonic() - begun < BUSY


def test_only_so_many_wait_and_none_when_the_service_ends() -> None:
    assert news_module.AT_ONCE <= lines.AT_ONCE / 2
    news = News()
    with ThreadPoolExecutor(32) as pool:
        for panel in range(10):
            for _time in range(5):
                pool.submit(news.wait, str(panel), news.of(str(panel)), 20.0)
        until("as many wait as may", lambda: news._waiting.total() == news_module.AT_ONCE)
        assert max(news._waiting.values()) == news_module.OF_ONE_PANEL
        begun = time.monotonic()
        news.end()
        until("nobody waits", lambda: news._waiting.total() == 0, BUSY)
        news.wait(OURS, news.of(OURS), 20.0)
        assert time.monotonic() - begun < BUSY
