"""A stand-in for the Hugging Face hub's HTTP: repositories of models, their commits and files, in memory."""

import base64
import hashlib
import http.server
import json
import re
import threading
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_standin"


@dataclass
class Repository:
    private: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(
        default_factory=list
    )  # (id, files), the first is empty

    def find(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A commit by "main" or its id."""
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)

    def commit(self, files: dict[str, bytes]) -> str:
        number = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        before = self.commits[-1][1] if self.commits else {}
        self.commits.append((number, {**before, **files}))
        return number


class Hub:
    """The stand-in; `asked` are the methods and paths of all requests."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.hub = self  # pyright: ignore[reportAttributeAccessIssue] # an attribute of ours
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        hub: Hub = self.server.hub  # pyright: ignore[reportAttributeAccessIssue] # an attribute of ours
        path = unquote(urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.command == "POST" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refuse(401, "wrong token")
        if path == "/api/validate-yaml":
            return self.reply({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.create(hub, json.loads(body))
        for pattern, act in (
            (r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", self.preupload),
            (r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", self.commit),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
        ):
            if found := re.fullmatch(pattern, path):
                name, *rest = found.groups()
                if name not in hub.repositories:
                    return self.refuse(404, "Repository not found", "RepoNotFound")
                return act(hub, name, body, *rest)
        return self.refuse(404, "not found")

    do_GET = do_HEAD = do_POST = answer

    def create(self, hub: Hub, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
        if name in hub.repositories:
            return self.reply({"error": "exists", "url": f"{hub.url}/{name}"}, 409)
        private = asked.get("private") or asked.get("visibility") == "private"
        hub.repositories[name] = Repository(bool(private))
        hub.repositories[name].commit({})
        return self.reply({"url": f"{hub.url}/{name}", "name": name})

    def preupload(self, hub: Hub, name: str, body: bytes, revision: str) -> None:
        modes = [
            {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
            for file in json.loads(body)["files"]
        ]
        self.reply({"files": modes})

    def commit(self, hub: Hub, name: str, body: bytes, revision: str) -> None:
        files = {}
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                assert line["value"]["encoding"] == "base64"
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        number = hub.repositories[name].commit(files)
        url = f"{hub.url}/{name}/commit/{number}"
        self.reply({"success": True, "commitOid": number, "commitUrl": url, "hookOutput": ""})

    def resolve(self, hub: Hub, name: str, body: bytes, revision: str, path: str) -> None:
        commit = hub.repositories[name].find(revision)
        if commit is None:
            return self.refuse(404, "Invalid rev id", "RevisionNotFound")
        number, files = commit
        if path not in files:
            return self.refuse(404, "Entry not found", "EntryNotFound", number)
        etag = f'"{hashlib.sha1(files[path]).hexdigest()}"'
        return self.send(200, files[path], {"ETag": etag, "X-Repo-Commit": number})

    def refuse(self, status: int, text: str, code: str = "", commit: str = "") -> None:
        extra = {"X-Error-Code": code, "X-Error-Message": text, "X-Repo-Commit": commit}
        self.send(status, json.dumps({"error": text}).encode(), {k: v for k, v in extra.items() if v})

    def reply(self, value: Any, status: int = 200) -> None:
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, text in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""
