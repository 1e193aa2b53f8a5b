# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Actions that are done on the controller, once for all hosts of a play: no module is sent anywhere.

Their files in plugins/modules hold the documentation. The panel's options are those of doc_fragments/panel.py.
"""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import urlsplit

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._node import net
from ansible_collections.marzban.tunnels.plugins.module_utils._panel.client import Panel
from ansible_collections.marzban.tunnels.plugins.module_utils._panel.transport import TOKENS
from ansible_collections.marzban.tunnels.plugins.module_utils._panel_module import panel_argument_spec
from ansible_collections.marzban.tunnels.plugins.plugin_utils import _panel_steps

NODE = "marzban_node"  # the variable in which the inventory plugin tells a host its node
# An option of the actions that report: the statuses with which a tunnel is a failure.
STRICT = {"type": "list", "elements": "str", "choices": ["error", "connecting", "inactive", "broken"], "default": []}
ALONE = ("free", "host_pinned")  # strategies in which no host waits for another; Mitogen has both under its own prefix


class ControllerAction(ActionBase):
    """An action with ``SPEC`` (its options, less the panel's) and ``work()``, which answers the result."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_diff = True
    SPEC: dict[str, Any] = {}
    RULES: dict[str, Any] = {}  # such as required_one_of

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result; an Error of ours fails the task with its text, and with what is in ``self.result`` by then."""
        self.result: dict[str, Any] = dict(super().run(tmp, task_vars) or {}, changed=False)
        self.variables = task_vars or {}
        self._panel: Panel | None = None
        self.options = self._options()
        try:
            self.result.update(self.work())
        except Error as error:
            self.result.update(failed=True, msg=str(error))
        if not self._task.diff:
            self.result.pop("diff", None)
        return self.result

    def work(self) -> dict[str, Any]:
        """What the result holds. Raises Error."""
        raise NotImplementedError

    @property
    def check_mode(self) -> bool:
        """Whether nothing may be changed."""
        return bool(self._task.check_mode)

    def warn(self, text: str) -> None:
        """Shows the operator a warning."""
        self.result.setdefault("warnings", []).append(text)

    @property
    def by_hand(self) -> bool:
        """Whether the records are a list of the operator's. Before core 2.19 a template can't answer null."""
        return self.options["records"] is not None and self.options["records"] != ""

    def panel(self) -> Panel:
        """The Panel of the options, one for the whole action: it warns once. Nothing is asked yet."""
        if self._panel is None:
            given = {name: self.options[name] for name in panel_argument_spec()}
            self._panel = Panel(warn=self.warn, tokens=TOKENS, **given)
        return self._panel

    def panel_addresses(self) -> list[str]:
        """Where the panel is, as this machine sees it: no tunnel may take a node's way there."""
        if self.by_hand:
            return []
        name = urlsplit(self.panel().url).hostname or ""
        return sorted(net.resolve([name])[name])

    def source(self) -> _panel_steps.Source:
        """Where the records come from: the option ``records``, else the panel."""
        panel = None if self.by_hand else self.panel()
        given = self.options
        return _panel_steps.Source(panel, given["records"], given["list_name"], given["post_quantum"])

    def report(self, told: _panel_steps.Told, post: bool) -> tuple[dict[str, Any], dict[str, list[str]]]:
        """What tunnel_report answers, and ``{host: sentences}`` about the statuses that are a failure.

        Prints the table: a callback would fold or escape its lines.
        """
        panel = self.panel() if post and not self.check_mode else None
        made = _panel_steps.report(panel, told, wide=self._display.verbosity > 0)
        self._display.display("\n%s\n" % "\n".join([*made.table, *told.done, *made.lines]))
        answer = dict(made._asdict())
        del answer["lines"]
        error, strict = answer.pop("error"), answer.pop("strict")
        if error:
            answer.update(failed=True, msg="The panel was not told: %s" % error)
        return answer, strict

    def _options(self) -> dict[str, Any]:
        """The checked options. The task's own ``environment`` counts before that of this process, as for a module."""
        spec = dict(panel_argument_spec(), **self.SPEC)
        environment = dict(os.environ)
        for variables in self._task.environment or []:
            if isinstance(variables, dict):
                environment.update({str(name): str(value) for name, value in variables.items()})
        given = dict(self._task.args)
        for name, option in spec.items():
            for variable in (option.pop("fallback", None) or (None, []))[1]:
                if given.get(name) is None and environment.get(variable):
                    given[name] = environment[variable]
        checked = ArgumentSpecValidator(spec, **self.RULES).validate(given)
        if checked.error_messages:
            raise AnsibleActionFail("; ".join(checked.error_messages))
        options: dict[str, Any] = plain(checked.validated_parameters)
        return options

    # The hosts of the play

    @property
    def batch(self) -> list[str]:
        """The hosts of this batch (``serial``) that did not fail and could be reached so far."""
        return list(self.variables["ansible_play_batch"])

    def lost(self, answers: str) -> list[str]:
        """The hosts of the play that failed or could not be reached, also where they have not left it yet.

        ``answers``: the name of the variable with what the last step answered.
        """
        going = set(self.variables["ansible_play_hosts"]) - set(self.unreached(answers))
        return [host for host in self.variables["ansible_play_hosts_all"] if host not in going]

    def unreached(self, answers: str) -> list[str]:
        """The hosts of this batch that a step with ``ignore_unreachable`` could not reach: they are to leave the play.

        Were they to leave it at once, nobody would be left to print the table where none could be reached.
        """
        # Of whole answers only this is asked, which needs no copy of them.
        told = {host: self.variables["hostvars"].raw_get(host).get(answers) for host in self.batch}
        return [host for host, answer in told.items() if isinstance(answer, dict) and answer.get("unreachable")]

    def ended_with(self, hosts: list[str], *names: str) -> dict[str, list[Any]]:
        """``{host: [value or None]}`` of what tasks have registered under ``names``, also where they failed."""
        found = [self.of_hosts(name, hosts) for name in names]
        return {host: [values.get(host) for values in found] for host in hosts}

    def of_hosts(self, name: str, hosts: list[str]) -> dict[str, Any]:
        """``{host: value}`` of a variable that was registered, or comes from the inventory; it is not templated."""
        hostvars = self.variables["hostvars"]
        found = ((host, hostvars.raw_get(host).get(name)) for host in hosts)
        return {host: plain(value) for host, value in found if value is not None}

    def answers_of(self, name: str) -> dict[str, Any]:
        """``{host: answer}`` of the hosts of this batch that have registered one under ``name``. Raises FieldError."""
        self._expect_all_hosts_in_step()
        found = self.of_hosts(name, self.batch)
        return {host: told for host, told in found.items() if isinstance(told, dict) and "tunnels" in told}

    def nodes(self) -> dict[str, str]:
        """``{host: name of its node}`` of all hosts of the play; of one that comes from no panel, its own name.

        Raises FieldError as ``answers_of`` does: who asks this decides something over all of them.
        """
        self._expect_all_hosts_in_step()
        hosts = list(self.variables["ansible_play_hosts_all"])
        known = self.of_hosts(NODE, hosts)
        named = {host: node.get("name") for host, node in known.items() if isinstance(node, dict)}
        return {host: str(named.get(host) or host) for host in hosts}

    def _expect_all_hosts_in_step(self) -> None:
        """Raises FieldError where each host goes at its own pace: what the others answer would not be there yet."""
        place = self._task
        while place is not None and not hasattr(place, "_play"):  # only a block knows its play
            place = getattr(place, "_parent", None)
        strategy = str(getattr(getattr(place, "_play", None), "strategy", "linear"))
        name = strategy.rsplit(".", 1)[-1]
        if (name[len("mitogen_") :] if name.startswith("mitogen_") else name) in ALONE:
            raise FieldError(
                "strategy",
                strategy,
                "The hosts of a run agree on keys after each step, so none may go ahead of the others: use linear "
                "(ANSIBLE_STRATEGY, strategy in ansible.cfg, or in the play).",
            )


def plain(value: Any) -> Any:
    """``value`` as plain JSON has it, without Ansible's own marks on texts. Raises AnsibleActionFail."""
    try:
        return json.loads(json.dumps(value, default=_without_ansibles))
    except (TypeError, ValueError) as error:
        raise AnsibleActionFail("The variables hold something that JSON can't: %s." % error) from error


def _without_ansibles(found: object) -> None:
    """Leaves out Ansible's own objects: core 2.19 keeps an exception in the result of a host that it can't reach."""
    if type(found).__module__.partition(".")[0] != "ansible":
        raise TypeError("%s is not a value of JSON" % type(found).__name__)
