"""A stand-in for the Hub on loopback: the HTTP that huggingface_hub really sends, for models, data sets and Spaces.

Repositories live in memory as Git would have them: blobs by their hash, commits as a mapping of paths to blobs,
branches and tags as names of commits. `StandInHub.environment` gives the variables (the newer storage, xet, needs a
service of its own; the Hub still speaks LFS to clients without it).
"""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".onnx", ".mp4", ".png")


@dataclass
class Repository:
    """One repository; `commits` is a list of (sha, {path: blob hash}), oldest first."""

    name: str
    private: bool = False
    commits: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, str], branch: str) -> str:
        parent = self.refs.get(branch, "")
        sha = hashlib.sha1(json.dumps([parent, branch, len(self.commits), sorted(files.items())]).encode()).hexdigest()
        self.commits.append((sha, files))
        self.refs[branch] = sha
        return sha

    def resolve(self, revision: str) -> tuple[str, dict[str, str]] | None:
        sha = self.refs.get(revision, revision)
        return next((commit for commit in self.commits if commit[0] == sha), None)


class StandInHub:
    """
    Args:
        token: who sends it as bearer may write, and read private repositories.

    Attributes:
        url: what `HF_ENDPOINT` takes.
        requests: every request so far, as "METHOD path".
        break_after: when set, the next download of a blob larger than this ends after so many bytes, once.
    """

    def __init__(self, token: str = "hf_stand_in"):
        self.token = token
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.break_after: int | None = None
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "StandInHub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add_blob(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return digest

    def environment(self, cache: Any, signed_in: bool = True) -> dict[str, str]:
        """Variables for a process that uses this Hub with its own empty cache."""
        token = {"HF_TOKEN": self.token} if signed_in else {"HF_TOKEN_PATH": f"{cache}/no-token"}
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **token,
        }


class _Answer(Exception):
    """Ends the handling of a request with an error status."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    hub: StandInHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    # -- plumbing ----------------------------------------------------------------------------------------------------

    def do_HEAD(self) -> None:
        self._handle()

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD

    def _handle(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {url.path}")
            if "Range" in self.headers:
                self.hub.ranges.append(self.headers["Range"])
            try:
                self._route(parts)
            except _Answer as answer:
                headers = {"X-Error-Code": answer.code, "X-Error-Message": str(answer)}
                self._json({"error": str(answer)}, answer.status, headers)

    def _route(self, parts: list[str]) -> None:
        if parts[:2] == ["api", "repos"]:
            return self._create()
        if parts[:2] == ["api", "whoami-v2"]:
            self._need_token()
            return self._json({"name": "tester", "type": "user", "orgs": [], "auth": {}})
        if parts[:2] == ["api", "validate-yaml"]:
            return self._json({"errors": [], "warnings": []})
        if parts[0] == "lfs":
            return self._lfs_object(parts[1])
        if parts[0] == "api" and parts[1] in ("models", "spaces", "datasets"):
            return self._repository_api("/".join(parts[2:4]), parts[4:], parts[1])
        if parts[0] in ("spaces", "datasets"):
            parts = parts[1:]
        if len(parts) > 2 and parts[1].endswith(".git"):
            return self._lfs_batch()
        if len(parts) > 4 and parts[2] == "resolve":
            return self._download("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        raise _Answer(404, "", f"no such route: {self.path}")

    def _send(self, status: int, content: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _signed_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _need_token(self) -> None:
        if not self._signed_in():
            raise _Answer(401, "", "Invalid username or password.")

    def _repository(self, name: str) -> Repository:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self._signed_in()):  # the Hub does not tell these two apart
            raise _Answer(401 if not self._signed_in() else 404, "RepoNotFound", "Repository not found")
        return found

    def _revision(self, repository: Repository, revision: str) -> tuple[str, dict[str, str]]:
        found = repository.resolve(revision)
        if found is None:
            raise _Answer(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    # -- writing -----------------------------------------------------------------------------------------------------

    def _create(self) -> None:
        self._need_token()
        wanted = json.loads(self.body)
        if self.command == "DELETE":
            self.hub.repositories.pop(f"{wanted.get('organization') or 'tester'}/{wanted['name']}", None)
            return self._json({})
        name = f"{wanted.get('organization') or 'tester'}/{wanted['name']}"
        private = bool(wanted.get("private") or wanted.get("visibility") == "private")
        answer = {"url": f"{self.hub.url}/{name}", "name": name, "id": name}
        if name in self.hub.repositories:
            return self._json({"error": "You already created this model repo", **answer}, 409)
        repository = self.hub.repositories[name] = Repository(name, private)
        repository.commit({".gitattributes": self.hub.add_blob(b"*.safetensors filter=lfs\n")}, "main")
        return self._json(answer)

    def _preupload(self) -> None:
        self._need_token()
        wanted = json.loads(self.body)["files"]
        modes = [
            {
                "path": each["path"],
                "uploadMode": "lfs" if each["path"].endswith(LFS_SUFFIXES) else "regular",
                "shouldIgnore": False,
            }
            for each in wanted
        ]
        self._json({"files": modes})

    def _lfs_batch(self) -> None:
        self._need_token()
        objects = []
        for each in json.loads(self.body)["objects"]:
            entry: dict[str, Any] = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.hub.blobs:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}", "header": {}}}
            objects.append(entry)
        self._json({"transfer": "basic", "objects": objects})

    def _lfs_object(self, digest: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != digest:
            raise _Answer(400, "", "the content does not have this hash")
        self.hub.add_blob(self.body)
        self._send(200, b"", {})

    def _commit(self, repository: Repository, branch: str) -> None:
        self._need_token()
        files = dict(self._revision(repository, branch)[1])
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = self.hub.add_blob(base64.b64decode(value["content"]))
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    raise _Answer(400, "", f"{value['path']} was not uploaded before the commit")
                files[value["path"]] = value["oid"]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"], None)
            elif entry["key"] == "deletedFolder":
                folder = value["path"].rstrip("/") + "/"
                files = {path: blob for path, blob in files.items() if not path.startswith(folder)}
        sha = repository.commit(files, branch)
        self._json({"commitUrl": f"{self.hub.url}/{repository.name}/commit/{sha}", "commitOid": sha})

    def _name_commit(self, repository: Repository, kind: str, where: str) -> None:
        """A tag at revision `where`, or a branch called `where`."""
        self._need_token()
        wanted = json.loads(self.body) if self.body else {}
        name, start = (wanted["tag"], where) if kind == "tag" else (where, wanted.get("startingPoint") or "main")
        repository.refs[name] = self._revision(repository, start)[0]
        self._json({})

    # -- reading -----------------------------------------------------------------------------------------------------

    def _repository_api(self, name: str, rest: list[str], kind: str) -> None:
        repository = self._repository(name)
        action, argument = (rest[0], "/".join(rest[1:])) if rest else ("revision", "main")
        if action == "preupload":
            return self._preupload()
        if action == "commit":
            return self._commit(repository, argument)
        if action in ("tag", "branch"):
            return self._name_commit(repository, action, argument)
        if action == "refs":
            named = repository.refs.items()
            refs = [{"name": key, "ref": f"refs/heads/{key}", "targetCommit": sha} for key, sha in named]
            return self._json({"branches": refs, "tags": [], "converts": []})
        if action == "revision":
            sha, files = self._revision(repository, argument)
            siblings = [self._describe(path, blob) | {"rfilename": path} for path, blob in sorted(files.items())]
            info = {"id": name, "modelId": name, "sha": sha, "private": repository.private, "tags": []}
            return self._json({**info, "siblings": siblings, "disabled": False, "gated": False})
        if action == "tree":
            return self._tree(repository, argument)
        if action == "paths-info":
            wanted = (json.loads if self.body.startswith(b"{") else parse_qs)(self.body.decode())["paths"]
            files = self._revision(repository, argument)[1]
            return self._json([self._describe(path, files[path]) for path in wanted if path in files])
        raise _Answer(404, "", f"no such route: {self.path}")

    def _tree(self, repository: Repository, argument: str) -> None:
        revision, _, folder = argument.partition("/")
        files = self._revision(repository, revision)[1]
        below = {path: blob for path, blob in files.items() if not folder or path.startswith(folder.rstrip("/") + "/")}
        if folder and not below:
            raise _Answer(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        depth = len(folder.split("/")) if folder else 0
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries: dict[str, Any] = {}
        for path, blob in sorted(below.items()):
            pieces = path.split("/")
            if len(pieces) > depth + 1 and not recursive:
                top = "/".join(pieces[: depth + 1])
                entries[top] = {"type": "directory", "path": top, "oid": "0" * 40, "size": 0}
            else:
                entries[path] = {"type": "file", **self._describe(path, blob)}
        self._json(list(entries.values()))

    def _describe(self, path: str, blob: str) -> dict[str, Any]:
        size = len(self.hub.blobs[blob])
        described: dict[str, Any] = {"type": "file", "path": path, "oid": blob[:40], "blobId": blob[:40], "size": size}
        if path.endswith(LFS_SUFFIXES):
            described["lfs"] = {"oid": blob, "sha256": blob, "size": size, "pointerSize": 134}
        return described

    def _download(self, name: str, revision: str, path: str) -> None:
        sha, files = self._revision(self._repository(name), revision)
        headers = {"X-Repo-Commit": sha}
        if path not in files:
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self._send(404, b"Entry not found", headers)
        content = self.hub.blobs[files[path]]
        lfs = path.endswith(LFS_SUFFIXES)
        headers |= {"ETag": f'"{files[path] if lfs else files[path][:40]}"', "Accept-Ranges": "bytes"}
        headers |= {"Content-Type": "application/octet-stream"}
        if lfs:
            headers |= {"X-Linked-Etag": f'"{files[path]}"', "X-Linked-Size": str(len(content))}
        first, _, last = self.headers.get("Range", "bytes=0-").split("=")[1].partition("-")
        start, wanted = int(first), content[int(first) : int(last) + 1 if last else None]
        if start or last:
            headers["Content-Range"] = f"bytes {start}-{start + len(wanted) - 1}/{len(content)}"
        limit = self.hub.break_after
        if self.command == "GET" and limit is not None and len(wanted) > limit:
            self.hub.break_after = None
            self._send(206 if "Content-Range" in headers else 200, wanted[:limit], headers, length=len(wanted))
            self.close_connection = True
            return None
        return self._send(206 if "Content-Range" in headers else 200, wanted, headers)


__all__ = ["Repository", "StandInHub"]
