# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rendering, pure and plain: Jinja2's sandbox on the controller, then tokens that the node replaces.

A template sees ``view`` (contract.md) and ``node``, what only the node knows: ``types.TunnelType.node_values``,
among them ``node.dir`` (the tunnel's folder) and ``node.mtu`` (bytes). In the text they are tokens (``@node.mtu@``),
which ``fill`` replaces. No value that passed the checks contains an ``@``, so no value can pose as a token.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, Mapping

from .._errors import Error, printable
from .types import BY_TYPE

if TYPE_CHECKING:
    from .shapes import View

_TOKEN = re.compile(r"@node\.([a-z_]+)@")


@functools.lru_cache(maxsize=16)
def _compiled(template_text: str) -> Any:
    """The template, which is compiled once for all tunnels: that costs twenty times as much as to render it.

    Jinja2 is imported here and not above, because a managed node fills and never renders.
    """
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    return environment.from_string(template_text)


def render(view: View, template_text: str) -> str:
    """The text of a checked ``view`` with the node's tokens in it. Raises Error when the template can't be rendered."""
    from jinja2 import TemplateError

    tokens = {name: "@node.%s@" % name for name in BY_TYPE[view["type"]].node_values}
    try:
        return str(_compiled(template_text).render(view=view, node=tokens))
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        raise Error(
            "The template can't be rendered: %s%s. "
            "Templates see view and node (docs/development/contract.md), no Ansible filters."
            % (printable(str(error)).rstrip("."), " (line %d)" % line if line else "")
        ) from None
    except Exception as error:  # a template is a program: it may raise anything
        raise Error("The template can't be rendered: %s." % printable(str(error)).rstrip(".")) from None


def fill(text: str, values: Mapping[str, Any]) -> str:
    """``text`` with its tokens replaced by ``values`` ``{"mtu": 1420, …}``. Raises Error on a token without a value."""

    def value(match: re.Match[str]) -> str:
        if match.group(1) not in values:
            raise Error(
                "The template asks for node.%s, and a node knows %s only." % (match.group(1), ", ".join(values))
            )
        return str(values[match.group(1)])

    return _TOKEN.sub(value, text)
