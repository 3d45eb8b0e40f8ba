"""A server that does with `handler.py` what the container of Inference Endpoints (huggingface-inference-toolkit) does:
imports it from the model's folder by path, gives it the request's body, and answers every exception with status 400.

`python stand_in_endpoint.py FOLDER ...` prints its port, and serves the first folder at /0, the second at /1.
Unlike the container it also takes bodies of type video/*.
"""

import importlib.util
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit


def load_handler(folder: str) -> Any:
    """The folder's `EndpointHandler`, made for it."""
    spec = importlib.util.spec_from_file_location("handler", Path(folder) / "handler.py")
    assert spec is not None and spec.loader is not None
    sys.path.insert(0, folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules["handler"] = module
    spec.loader.exec_module(module)
    return module.EndpointHandler(folder)


def read_body(body: bytes, content_type: str | None) -> Any:
    """The body as the handler is given it."""
    kind = (content_type or "").split(";")[0].strip().lower()
    if kind == "application/json":
        return json.loads(body)
    if kind.startswith(("audio/", "video/")):
        return {"inputs": body}
    raise ValueError(f'Content type "{content_type}" not supported')


def read_query(query: str) -> dict[str, Any]:
    """Parameters of the address: whole numbers and truth values by their look."""
    words = {"true": True, "false": False}
    return {key: int(value) if value.isnumeric() else words.get(value, value) for key, value in parse_qsl(query)}


class Endpoint(BaseHTTPRequestHandler):
    handlers: list[Any] = []

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        try:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            data = read_body(body, self.headers["Content-Type"])
            if "inputs" not in data:
                raise ValueError("Body needs to provide a inputs key")
            if url.query and "parameters" not in data:
                data["parameters"] = read_query(url.query)
            status, answer = 200, self.handlers[int(url.path.strip("/") or 0)](data)
            content = json.dumps(answer, allow_nan=False).encode()
        except Exception as error:
            status, content = 400, json.dumps({"error": str(error)}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def main() -> None:
    sys.modules["clcr_hf"] = None  # type: ignore[assignment]  # stands for a machine without the package
    Endpoint.handlers = [load_handler(folder) for folder in sys.argv[1:]]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
