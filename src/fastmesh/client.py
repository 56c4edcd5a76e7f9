"""The control plane's HTTP API for programs and for the CLI.

Owns connection, authentication and errors; knows paths and nothing of how answers are shown. Stdlib only.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

DEFAULT_URL = "http://127.0.0.1:15014"
TIMEOUT = 30.0
MAX_ANSWER = 256 << 20


class ApiError(Exception):
    """The control plane said no. `status` is HTTP's; `problems` lists what is wrong with a config."""

    def __init__(self, status: int, message: str, problems: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problems = problems or []


class Unreachable(Exception):
    """No answer came from the control plane."""


class Client:
    """Calls of one control plane. Each call is one connection: a CLI makes few."""

    def __init__(self, url: str = DEFAULT_URL, token: str = "") -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an http:// address")
        self.url = url
        self._https = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if self._https else 80)
        self._base = parts.path.rstrip("/")
        self.token = token

    @classmethod
    def from_state(cls, state: str) -> Client:
        """Of the control plane whose state directory this is; OSError when it cannot be read."""
        with open(os.path.join(state, "api.token"), encoding="utf-8") as file:
            token = file.read().strip()
        url = DEFAULT_URL
        try:
            with open(os.path.join(state, "api.url"), encoding="utf-8") as file:
                url = file.read().strip()
        except FileNotFoundError:
            pass  # it has never run: the default is the best guess
        return cls(url, token)

    def call(
        self,
        method: str,
        path: str,
        body: bytes | dict[str, Any] | None = None,
        query: dict[str, Any] | None = None,
        timeout: float = TIMEOUT,
    ) -> Any:
        """The decoded answer; ApiError when it is not 2xx, Unreachable when there is none."""
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}
        data: bytes | None = None if isinstance(body, dict) else body
        if isinstance(body, dict):
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        target = self._base + path + (f"?{urlencode(query)}" if query else "")
        connection = (
            http.client.HTTPSConnection(
                self._host, self._port, timeout=timeout, context=ssl.create_default_context()
            )
            if self._https
            else http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        )
        try:
            connection.request(method, target, data, headers)
            answer = connection.getresponse()
            text = answer.read(MAX_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"the control plane at {self.url} cannot be reached: {error}") from error
        finally:
            connection.close()
        try:
            decoded = json.loads(text)
        except ValueError:
            decoded = {"error": text[:300].decode(errors="replace")}
        if not 200 <= answer.status < 300:
            said = decoded if isinstance(decoded, dict) else {}
            raise ApiError(answer.status, said.get("error") or answer.reason, said.get("problems"))
        return decoded

    def apply(
        self, files: list[tuple[str, str]], namespace: str = "default", dry_run: bool = False
    ) -> dict[str, Any]:
        """All objects of all (name, text) files, or none."""
        query = {"namespace": namespace, "dry_run": "true" if dry_run else "false"}
        body = {"files": [{"name": name, "text": text} for name, text in files]}
        answer: dict[str, Any] = self.call("POST", "/v1/apply", body, query)
        return answer

    def wait(self, version: int, timeout: float) -> dict[str, Any]:
        """Wait until every live proxy serves a version: {"done", "late", "refused", "proxies"}."""
        query = {"version": version, "timeout": timeout}
        answer: dict[str, Any] = self.call("GET", "/v1/wait", query=query, timeout=timeout + TIMEOUT)
        return answer

    def items(self, what: str, **query: str) -> list[dict[str, Any]]:
        """A list: "services", "proxies", "tokens", "resources/VirtualService"."""
        given = {name: value for name, value in query.items() if value}
        found: list[dict[str, Any]] = self.call("GET", f"/v1/{what}", query=given)["items"]
        return found

    def get(self, *path: str) -> Any:
        return self.call("GET", "/v1/" + "/".join(quote(part, safe="") for part in path))

    def proxy_config(self, proxy: str, what: str = "config") -> Any:
        """What a sidecar says of itself: a view of its admin endpoint."""
        return self.call("GET", f"/v1/proxies/{quote(proxy, safe='')}/config", query={"what": what})

    def delete(self, *path: str) -> Any:
        return self.call("DELETE", "/v1/" + "/".join(quote(part, safe="") for part in path))

    def token_create(self, service: str, **fields: Any) -> dict[str, Any]:
        """A join bundle."""
        bundle: dict[str, Any] = self.call("POST", "/v1/tokens", {"service": service, **fields})
        return bundle
