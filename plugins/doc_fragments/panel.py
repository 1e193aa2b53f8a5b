# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # For the modules
    DOCUMENTATION = r"""
requirements:
  - requests (on the host that runs the module, usually the controller by C(delegate_to))
options:
  url:
    description:
      - Address of the panel, such as V(https://panel.example.com:8000). Redirects are not followed.
      - If it is not given, the environment variable E(MARZBAN_URL) is used.
    type: str
  username:
    description:
      - A sudo admin of the panel.
      - If it is not given, the environment variable E(MARZBAN_USERNAME) is used.
    type: str
  password:
    description:
      - The admin's password.
      - If it is not given, the environment variable E(MARZBAN_PASSWORD) is used.
    type: str
  token:
    description:
      - A token of a sudo admin, instead of O(username) and O(password). If all are given, the token is tried first.
      - If it is not given, the environment variable E(MARZBAN_TOKEN) is used.
    type: str
  ca_path:
    description:
      - File with the certificate (PEM) of the authority that signed the panel's certificate, or the panel's own
        certificate where it signed itself.
      - If it is not given, the environment variable E(MARZBAN_CA_PATH) is used (give an absolute path there), then the
        bundle in E(REQUESTS_CA_BUNDLE), then E(CURL_CA_BUNDLE), then the one that comes with requests.
    type: path
  validate_certs:
    description:
      - Whether the panel's certificate is checked. Without that, an attacker on the way can read the password.
      - If it is not given, the environment variable E(MARZBAN_VALIDATE_CERTS) is used.
    type: bool
    default: true
  timeout:
    description:
      - Seconds to wait for a connection, and for each piece of an answer, 1 to 600.
      - If it is not given, the environment variable E(MARZBAN_TIMEOUT) is used.
    type: int
    default: 10
  retries:
    description:
      - How often a request is tried again, 0 to 10, when the panel can't be reached, is busy or fails. A request that
        must not be made twice is tried again only if it was not sent.
      - If it is not given, the environment variable E(MARZBAN_RETRIES) is used.
    type: int
    default: 3
attributes:
  action_group:
    description: Use C(group/marzban.tunnels.panel) in C(module_defaults) to give the panel's options once.
    support: full
    membership:
      - marzban.tunnels.panel
notes:
  - Proxies of the environment (E(HTTPS_PROXY), E(NO_PROXY)) are used, except for a panel on this machine.
"""

    # For the inventory plugin, whose options have their environment variables declared
    INVENTORY = r"""
requirements:
  - requests
options:
  url:
    description: Address of the panel, such as V(https://panel.example.com:8000). Redirects are not followed.
    type: str
    env:
      - name: MARZBAN_URL
  username:
    description: A sudo admin of the panel.
    type: str
    env:
      - name: MARZBAN_USERNAME
  password:
    description: The admin's password.
    type: str
    env:
      - name: MARZBAN_PASSWORD
  token:
    description:
      - A token of a sudo admin, instead of O(username) and O(password). If all are given, the token is tried first.
    type: str
    env:
      - name: MARZBAN_TOKEN
  ca_path:
    description:
      - File with the certificate (PEM) of the authority that signed the panel's certificate, or the panel's own
        certificate where it signed itself. In the inventory file, a path may be relative to that
        file; in the environment give an absolute one, which works for the modules too.
      - If it is not given, the bundle in E(REQUESTS_CA_BUNDLE) is used, then E(CURL_CA_BUNDLE), then the one that comes
        with requests.
    type: str
    env:
      - name: MARZBAN_CA_PATH
  validate_certs:
    description:
      - Whether the panel's certificate is checked. Without that, an attacker on the way can read the password.
    type: bool
    default: true
    env:
      - name: MARZBAN_VALIDATE_CERTS
  timeout:
    description: Seconds to wait for a connection, and for each piece of an answer, 1 to 600.
    type: int
    default: 10
    env:
      - name: MARZBAN_TIMEOUT
  retries:
    description: How often a request is tried again, 0 to 10, when the panel can't be reached, is busy or fails.
    type: int
    default: 3
    env:
      - name: MARZBAN_RETRIES
notes:
  - Proxies of the environment (E(HTTPS_PROXY), E(NO_PROXY)) are used, except for a panel on this machine.
"""
