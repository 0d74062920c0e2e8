"""A stand-in for the model hub on this machine: the endpoints that its client uses to send and fetch a repository."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_a_token_of_this_test"


@dataclass
class Hub:
    """The hub's state.

    Attributes:
        address: of the server.
        repos: repository → its files, as of the newest commit.
        large: contents of large files, by their SHA-256.
        messages: of the commits.
        seen: (method, path) of each request.
        refuses: whether no token may write.
    """

    address: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    private: list[str] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    refuses: bool = False

    def commit(self, repo: str) -> str:
        """Return the newest commit: a function of the content."""
        parts = [(name, hashlib.sha1(content).hexdigest()) for name, content in sorted(self.repos[repo].items())]
        return hashlib.sha1(repr(parts).encode()).hexdigest()


def is_large(name: str) -> bool:
    """As the hub's default `.gitattributes`."""
    return name.endswith((".safetensors", ".ckpt", ".bin"))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub, path = self._begun("POST"), self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            return self._json({"warnings": [], "errors": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._error(401, "Invalid username or password.")
        if hub.refuses:
            return self._error(403, "You have no right to write here.")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if match := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            files = json.loads(body)["files"]
            modes = [
                {"path": file["path"], "uploadMode": "lfs" if is_large(file["path"]) else "regular",
                 "shouldIgnore": False}
                for file in files
            ]  # fmt: skip
            return self._json({"files": modes}) if match[1] in hub.repos else self._no_repo()
        if re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            objects = [
                {**wanted, "actions": {"upload": {"href": f"{hub.address}/store/{wanted['oid']}"},
                                       "verify": {"href": f"{hub.address}/verify"}}}
                for wanted in json.loads(body)["objects"]
            ]  # fmt: skip
            return self._json({"transfer": "basic", "objects": objects})
        if path == "/verify":
            wanted = json.loads(body)
            return self._json({} if len(hub.large[wanted["oid"]]) == wanted["size"] else {"wrong": True})
        if match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            return self._commit(match[1], [json.loads(line) for line in body.splitlines()])
        return self._error(404, "no such endpoint")

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub, oid = self._begun("PUT"), self.path.rpartition("/")[2]
        if hashlib.sha256(content).hexdigest() != oid:
            return self._error(400, "the content is not what its id says")
        hub.large[oid] = content
        return self._answer(200, b"", {})

    def do_HEAD(self) -> None:
        self._read("HEAD")

    def do_GET(self) -> None:
        self._read("GET")

    def _read(self, method: str) -> None:
        hub, path = self._begun(method), self.path.partition("?")[0]
        if match := re.fullmatch(r"/cdn/([0-9a-f]{64})", path):
            return self._answer(200, hub.large[match[1]], {"ETag": f'"{match[1]}"'})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            repo, revision = match[1], match[2] or "main"
            if repo not in hub.repos:
                return self._no_repo()
            if revision not in ("main", hub.commit(repo)):
                return self._error(404, "Revision Not Found", "RevisionNotFound")
            siblings = [{"rfilename": name} for name in (".gitattributes", *hub.repos[repo])]
            return self._json({"id": repo, "sha": hub.commit(repo), "siblings": siblings, "tags": []})
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo, _, name = match.groups()
            if repo not in hub.repos:
                return self._no_repo()
            if name not in hub.repos[repo]:
                return self._error(404, "Entry not found", "EntryNotFound")
            return self._resolve(hub.repos[repo][name], name, hub.commit(repo))
        return self._error(404, "no such endpoint")

    def _resolve(self, content: bytes, name: str, commit: str) -> None:
        headers = {"X-Repo-Commit": commit}
        if not is_large(name):
            return self._answer(200, content, {**headers, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'})
        oid = hashlib.sha256(content).hexdigest()
        self.hub.large[oid] = content
        linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        elsewhere = self.hub.address.replace(
            "127.0.0.1", "localhost"
        )  # the client looks at where it is sent, as at a CDN
        return self._answer(302, b"", {**headers, **linked, "Location": f"{elsewhere}/cdn/{oid}"})

    def _create(self, wanted: dict[str, Any]) -> None:
        repo = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else f"me/{wanted['name']}"
        answer = {"url": f"{self.hub.address}/{repo}", "name": repo, "id": "1"}
        if repo in self.hub.repos:
            return self._json(answer, 409)
        self.hub.repos[repo] = {}
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.hub.private.append(repo)
        return self._json(answer)

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        if repo not in self.hub.repos:
            return self._no_repo()
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif line["key"] == "file":
                self.hub.repos[repo][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.repos[repo][value["path"]] = self.hub.large[value["oid"]]
        commit = self.hub.commit(repo)
        return self._json({"commitUrl": f"{self.hub.address}/{repo}/commit/{commit}", "commitOid": commit})

    def _begun(self, method: str) -> Hub:
        self.hub.seen.append((method, self.path))
        return self.hub

    def _no_repo(self) -> None:
        self._error(401, "Repository Not Found", "RepoNotFound")

    def _error(self, status: int, message: str, code: str = "") -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self._answer(status, json.dumps({"error": message}).encode(), headers)

    def _json(self, content: object, status: int = 200) -> None:
        self._answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve an empty hub at a free port of this machine."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
