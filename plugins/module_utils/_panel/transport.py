# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HTTP with a panel: one session, its login, what is tried again, and what its errors mean."""

from __future__ import annotations

import email.utils
import ipaddress
import json
import os
import random
import re
import sys
import time
from typing import Any, Callable, Dict, Tuple
from urllib.parse import urlsplit

from .._errors import Error, FieldError, PanelError, printable, shown
from .._model import validators
from . import api

try:
    import requests
    import urllib3
    from requests.utils import get_environ_proxies
except ImportError:  # reported when a Panel is made
    requests = None  # type: ignore[assignment]


MAX_ANSWER = 160 * 2**20  # bytes: a page of tunnels whose configs are all as large as they may be
MAX_WAIT = 30  # seconds that a panel's Retry-After is followed
TOKEN = re.compile(r"[!-~]{1,8192}\Z")
TOKEN_PATH = "/api/admin/token"
TUNNELS_PATH = "/api/tunnels"
PANEL_ID = "Marzban-Panel-Id"

_KINDS = {400: "invalid", 401: "login", 403: "forbidden", 409: "conflict", 412: "outdated", 422: "invalid", 429: "busy"}
_KINDS.update({502: "unreachable", 503: "unreachable", 504: "unreachable", 507: "full"})


def checked_url(url: object) -> str:
    """``url`` without a slash at its end. Raises FieldError if it can't be a panel's."""
    hint = "Give the panel's address (or set MARZBAN_URL), such as https://panel.example.com:8000, and no more."
    if not isinstance(url, str):
        raise FieldError("url", url, hint)
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:  # not shown: it may contain a password
        raise FieldError("url", "…", hint) from None
    if "@" in parts.netloc:  # for the same reason
        raise FieldError("url", "…@" + parts.netloc.rsplit("@", 1)[1], hint)
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or not url.isprintable():
        raise FieldError("url", url, hint)
    validators.endpoint(host, "url")
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether what is sent to ``host`` stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


Tokens = Dict[Tuple[str, ...], str]
#: Tokens by (url, username, password). The inventory plugin logs in, in Ansible's own process; the actions on the
#: controller are forks of it, and need no login of their own. Nothing of it is written anywhere.
TOKENS: Tokens = {}


class Transport:
    """A session with one panel, logged in when first needed. Every failure is a PanelError that says what to do.

    ``warn`` is called with sentences for the operator; ``timeout`` is in seconds. ``tokens``: where tokens are kept for
    the next session of this process, such as TOKENS.
    """

    def __init__(
        self,
        url: str | None,
        username: str | None = None,
        password: str | None = None,
        token: str | None = None,
        ca_path: str | None = None,
        validate_certs: bool = True,
        timeout: int = 10,
        retries: int = 3,
        warn: Callable[[str], object] = lambda text: None,
        tokens: Tokens | None = None,
    ) -> None:
        if requests is None:
            raise Error("The Python library requests is missing: install it for %s." % sys.executable)
        token = (token or "").strip()  # from a file or a vault it comes with a line feed
        if token and not TOKEN.match(token):
            raise Error("token: it contains characters that no token has. Give it as the panel gave it.")
        if not token and not (username and password):
            raise Error(
                "A login for the panel is required. Give username and password, or a token (MARZBAN_USERNAME, …)."
            )
        self.url = checked_url(url)
        self.id = ""  # of the panel, known after its first answer about tunnels
        self.api: int | None = None  # the version of its tunnels API (see api.py), known from then on as well
        self._warn = warn
        self._login: tuple[str, ...] = (username, password) if username and password else ()
        self._tokens: Tokens = {} if tokens is None else tokens
        self._token = token or self._tokens.get((self.url, *self._login), "")
        self._logged_in = False
        self._timeout = validators.integer(timeout, "timeout", 1, 600)
        self._retries = validators.integer(retries, "retries", 0, 10)
        self._session = self._open(ca_path, validate_certs)
        if urlsplit(self.url).scheme == "http" and not is_loopback(self._host()):
            warn(
                "The panel at %s is asked without TLS: anybody on the way can read password, token and answers."
                % self._host()
            )

    def _host(self) -> str:
        return urlsplit(self.url).hostname or ""

    def _open(self, ca_path: str | None, validate_certs: bool) -> Any:
        # requests lets the environment override a session: REQUESTS_CA_BUNDLE beats ca_path, and ~/.netrc the token.
        # So it may not read the environment; what is useful there (proxies, a CA bundle where ca_path is not given) is
        # set here. A panel on this machine is never asked through a proxy.
        session = requests.Session()
        session.trust_env = False
        if not is_loopback(self._host()):
            session.proxies = get_environ_proxies(self.url)
        if ca_path and not os.path.exists(ca_path):
            hint = "There is no such file here: give the path of the CA certificate (PEM)."
            if not os.path.isabs(ca_path):
                hint = "There is no such file below %s: give an absolute path." % os.getcwd()
            raise FieldError("ca_path", ca_path, hint)
        bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        session.verify = (ca_path or bundle or True) if validate_certs else False
        if not validate_certs:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        session.headers.update({"Accept": "application/json", "Accept-Encoding": "identity"})
        return session

    def ask_object(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        """As ``ask``, where the answer has to be an object of JSON."""
        answer = self.ask(method, path, **more)
        if not isinstance(answer, dict):
            raise self.bad(method, path, "with something that is not an object")
        return answer

    def delete(self, path: str, **more: Any) -> None:
        """Deletes what is at ``path``; also where it does not exist any more."""
        try:
            self.ask("DELETE", path, again=True, **more)
        except PanelError as error:
            # A first try whose answer was lost may have deleted it.
            if error.kind != "not_found":
                raise

    def ask(
        self,
        method: str,
        path: str,
        again: bool | None = None,
        version: int | None = None,
        params: dict[str, int] | None = None,
        body: Any = None,
    ) -> Any:
        """The decoded answer. ``again``: the request may be sent twice (default: GET only).

        ``version``: the request is refused (``outdated``) unless the record has this version.
        """
        again = method == "GET" if again is None else again
        headers = {} if version is None else {"If-Match": '"%d"' % version}
        if not self._token:
            self._log_in()
        response, content = self._send(method, path, again, headers, params=params, json=body)
        if response.status_code == 401 and self._login and not self._logged_in:
            # The given token has expired. A token that was just made has not, and is not a reason to log in again.
            self._log_in()
            response, content = self._send(method, path, again, headers, params=params, json=body)
        return self._read(method, path, response, content)

    def _log_in(self) -> None:
        username, password = self._login
        form = {"username": username, "password": password}
        response, content = self._send("POST", TOKEN_PATH, True, {}, data=form)  # a second token does no harm
        if response.status_code == 422:
            raise self._error("login", "POST", TOKEN_PATH, response.status_code, content)
        answer = self._read("POST", TOKEN_PATH, response, content)
        token = answer.get("access_token") if isinstance(answer, dict) else None
        if not isinstance(token, str) or not TOKEN.match(token):
            raise self.bad("POST", TOKEN_PATH, "without a token")
        self._token = self._tokens[(self.url, username, password)] = token
        self._logged_in = True

    def _send(self, method: str, path: str, again: bool, headers: dict[str, str], **more: Any) -> tuple[Any, bytes]:
        """``(response, content)`` after as many tries as are allowed and wanted."""
        headers = dict(headers)
        if path != TOKEN_PATH:
            headers["Authorization"] = "Bearer " + self._token
        left = self._retries
        while True:
            try:
                response, content = self._send_once(method, path, headers, **more)
                status = response.status_code
                # 429: the panel did not look at it. Any 5xx may have had its effect.
                if not left or not (status == 429 or (again and status >= 500)):
                    return response, content
                wait = retry_after(response.headers.get("Retry-After", ""))
                if wait is not None and wait > MAX_WAIT:
                    return response, content
            except requests.exceptions.SSLError as error:
                raise PanelError(
                    "tls", "%s can't be trusted: %s" % (self.url, self._clean(tls_reason(error)))
                ) from None
            except (requests.exceptions.RequestException, OSError) as error:
                if not left or not (again or never_sent(error)):
                    seen = "%s %s%s: no answer (%s)" % (
                        method,
                        self.url,
                        path,
                        self._clean(reason(error, self._timeout)),
                    )
                    raise PanelError("unreachable", seen) from None
                wait = None
            tried = self._retries - left
            time.sleep(wait if wait is not None else min(0.3 * 2**tried, 8) * random.uniform(0.8, 1.2))
            left -= 1

    def _send_once(self, method: str, path: str, headers: dict[str, str], **more: Any) -> tuple[Any, bytes]:
        # No redirect is followed: it could carry the token, or a login, to another host.
        with self._session.request(
            method, self.url + path, headers=headers, timeout=self._timeout, allow_redirects=False, stream=True, **more
        ) as response:
            content = bytearray()  # bytes would be copied as a whole for each chunk
            for chunk in response.iter_content(16384):
                content += chunk
                if len(content) > MAX_ANSWER:
                    raise self.bad(method, path, "with more than %d MiB" % (MAX_ANSWER >> 20))
            return response, bytes(content)

    def _read(self, method: str, path: str, response: Any, content: bytes) -> Any:
        """What the answer holds, or the error that it is."""
        status = response.status_code
        about_tunnels = path.startswith(TUNNELS_PATH)
        data, is_json = None, "json" in response.headers.get("Content-Type", "")
        if is_json:
            try:
                data = json.loads(content.decode("utf-8"))
            except (ValueError, RecursionError):
                raise self.bad(method, path, "with JSON that can't be read", status) from None
        if about_tunnels and PANEL_ID in response.headers:
            self._recognise(response.headers[PANEL_ID], response.headers.get(api.HEADER))
        if 200 <= status < 300:
            if not is_json:
                raise self.bad(method, path, "with something that is not JSON", status)
            if about_tunnels and PANEL_ID not in response.headers:
                raise self.bad(method, path, "without the header %s" % PANEL_ID, status)
            return data
        if 300 <= status < 400:
            place = shown(self._clean(response.headers.get("Location", "nowhere")), 200)
            raise self.bad(method, path, "with a redirect to %s, which is not followed" % place, status)
        detail = data.get("detail") if isinstance(data, dict) else None
        kind = self._kind(path, status, detail, PANEL_ID in response.headers)
        raise self._error(kind, method, path, status, detail if is_json else content)

    def refusal(self, method: str, path: str, status: int, detail: object) -> PanelError:
        """The error for a part of a request that our routes have refused as they refuse a whole one."""
        return self._error(self._kind(path, status, detail, True), method, path, status, detail)

    def _kind(self, path: str, status: int, detail: object, from_our_routes: bool) -> str:
        if status == 404:
            return self._kind_of_404(path, detail, from_our_routes)
        if status == 422 and self._is_unknown_there(detail):
            return "old_panel"
        if status in (401, 403) and detail is None:  # a panel has a reason, in JSON
            return "not_panel"
        own = api.trouble(detail) if status == 503 else None
        return own or _KINDS.get(status, "bad_answer")

    def _is_unknown_there(self, detail: object) -> bool:
        # Our panel's words (errors.py) for a field that only a later version of its API has.
        found = detail.values() if isinstance(detail, dict) else ()
        return (self.api or api.VERSION) < api.VERSION and any(str(text).startswith("Unknown field") for text in found)

    @staticmethod
    def _kind_of_404(path: str, detail: object, from_our_routes: bool) -> str:
        # A missing route says "Not Found" (or HTML). A missing object names itself, and our routes have a header.
        if path.startswith(TUNNELS_PATH):
            missing = from_our_routes and isinstance(detail, str) and detail != "Not Found"
            return "not_found" if missing else "no_tunnels_api"
        return "not_found" if detail == "Node not found" else "bad_answer"

    def _recognise(self, value: str, version: str | None) -> None:
        try:
            found = validators.uuid(value, PANEL_ID)
            known, self.api = self.api, api.version(version)
        except FieldError as error:
            raise PanelError("bad_answer", str(error)) from None
        if self.id not in ("", found):
            raise PanelError("bad_answer", "%s answers as two panels, %s and %s" % (self.url, self.id, found))
        self.id = found
        if self.api > api.VERSION and known is None:
            self._warn(
                "The panel at %s has version %d of the tunnels API, and this collection knows %d: "
                "what is new there can't be used, and tunnels that use it are refused. Update the collection."
                % (self.url, self.api, api.VERSION)
            )

    def _error(self, kind: str, method: str, path: str, status: int, detail: object) -> PanelError:
        return PanelError(
            kind, "%s %s%s answered %d: %s" % (method, self.url, path, status, self._clean(readable(detail))), status
        )

    def bad(self, method: str, path: str, how: str, status: int | None = None) -> PanelError:
        """The error for an answer that no panel gives; ``how`` ends the sentence "… answered …"."""
        return PanelError("bad_answer", "%s %s%s answered %s" % (method, self.url, path, how), status)

    def _clean(self, text: str) -> str:
        """``text`` without our secrets."""
        for secret in filter(None, [self._token, *self._login[1:]]):
            text = text.replace(secret, "********")
        return text


def readable(detail: object) -> str:
    """The ``detail`` of an error as a line: a text, Marzban's ``{field: message}``, or FastAPI's list of dicts."""
    if isinstance(detail, dict):
        return printable("; ".join("%s: %s" % pair for pair in list(detail.items())[:20]))
    if isinstance(detail, list):
        parts = []
        for entry in detail[:20]:
            place = entry.get("loc") if isinstance(entry, dict) else None
            where = ".".join(str(step) for step in place) if isinstance(place, list) else ""
            parts.append("%s: %s" % (where, entry.get("msg")) if where else shown(entry))
        return printable("; ".join(parts))
    if isinstance(detail, bytes):
        text = detail[:2000].decode("utf-8", "replace").strip()
        return "a page of HTML" if text[:1] == "<" else printable(text, 200) or "nothing"
    return printable(detail) if isinstance(detail, str) else "no reason given"


def retry_after(text: str) -> float | None:
    """Seconds that a panel's Retry-After asks for (a number or a date), or None."""
    if re.match(r"[0-9]{1,9}\Z", text):
        return int(text)
    try:
        moment = email.utils.parsedate_tz(text) if text else None
        return max(0, email.utils.mktime_tz(moment) - time.time()) if moment else None
    except (ValueError, OverflowError):  # a date that does not exist
        return None


def never_sent(error: Exception) -> bool:
    """Whether the connection was never made."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return True
    cause = error.args[0] if error.args else None
    return isinstance(getattr(cause, "reason", None), urllib3.exceptions.NewConnectionError)


def reason(error: Exception, timeout: int) -> str:
    """Why there was no answer within ``timeout`` seconds."""
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy in the environment refused it"
    if isinstance(error, requests.exceptions.Timeout) or "timed out" in str(error):
        return "nothing within %d s" % timeout
    for words in ("Connection refused", "Name or service not known", "No route to host", "Network is unreachable"):
        if words in str(error):
            return words.lower()
    if "Temporary failure in name resolution" in str(error) or "getaddrinfo" in str(error):
        return "the name can't be resolved"
    return printable(str(error), 200)


def tls_reason(error: Exception) -> str:
    """Why a certificate, or a port, is not trusted."""
    found = re.search(r"certificate verify failed: (.+?)\.?(?: \(_ssl|[\])]|\Z)", str(error))  # it may quote names
    if found:
        return printable(found.group(1).strip(), 200)
    if "WRONG_VERSION_NUMBER" in str(error) or "wrong version number" in str(error):
        return "it does not speak TLS on this port"
    return printable(str(error), 200)
