"""Fetching: a real HTTP server on loopback with its bad manners, and addresses that must not be asked."""

import base64
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clcr_hf import fetch as fetch_module
from clcr_hf.fetch import FetchError, fetch, is_base64_media, is_url, read_base64, read_data_uri

CONTENT = bytes(range(256)) * 400


class _Server(BaseHTTPRequestHandler):
    """Answers by the first part of the path."""

    seen: list[tuple[str, str]] = []

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.seen.append((self.path, self.headers["Host"]))
        what, _, rest = self.path[1:].partition("/")
        getattr(self, f"_{what.partition('?')[0]}")(rest)

    def _answer(self, status=200, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _file(self, _):
        self._answer(body=CONTENT, Content_Length=str(len(CONTENT)), Content_Type="video/mp4")

    def _unstated(self, _):
        self._answer(body=CONTENT)

    def _chunked(self, _):
        self.protocol_version = "HTTP/1.1"
        pieces = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (CONTENT[:5], CONTENT[5:]))
        self._answer(body=pieces + b"0\r\n\r\n", Transfer_Encoding="chunked")

    def _status(self, rest):
        self._answer(int(rest))

    def _nothing(self, _):
        self._answer(Content_Length="0")

    def _page(self, _):
        self._answer(body=b"<html>", Content_Type="text/html; charset=utf-8")

    def _packed(self, _):
        self._answer(body=b"\x1f\x8b", Content_Encoding="gzip")

    def _short(self, _):
        self._answer(body=b"abc", Content_Length="1000")

    def _huge(self, _):
        self._answer(body=b"abc", Content_Length=str(10**12))

    def _modest(self, _):
        """States three bytes and sends more."""
        self._answer(body=CONTENT, Content_Length="3")

    def _endless(self, _):
        self._answer()
        try:
            while True:
                self.wfile.write(CONTENT)
        except OSError:  # the client has gone
            type(self).gone.set()

    gone = threading.Event()

    def _drip(self, _):
        """A byte now and then: each in time, the whole never."""
        self._answer(Content_Length="1000")
        self._send_slowly(b"x" * 1000)

    def _header(self, _):
        self._send_slowly(b"HTTP/1.0 200 OK\r\nX-Long: " + b"x" * 1000)

    def _send_slowly(self, content):
        try:
            for index in range(len(content)):
                self.wfile.write(content[index : index + 1])
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass

    def _garbage(self, _):
        self.wfile.write(b"\x00\x01 no HTTP\r\n\r\n")

    def _hop(self, rest):
        left = int(rest)
        self._answer(302, Location=f"/hop/{left - 1}" if left else "/file")

    def _to(self, rest):
        self._answer(301, Location=rest)


@pytest.fixture(scope="module")
def server():
    running = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    running.server_close()


@pytest.fixture
def open_door(monkeypatch):
    """Lets loopback through, as the environment variable does."""
    monkeypatch.setenv("CLCR_ALLOW_PRIVATE_URLS", "1")


# -- what comes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/file", "/unstated", "/chunked", "/hop/0", "/hop/4"])
def test_the_body_comes_whole(server, open_door, path):
    assert fetch(server + path) == CONTENT


def test_private_addresses_by_argument(server):
    assert fetch(server + "/file", allow_private=True) == CONTENT


def test_what_is_said_of_the_length_bounds_what_is_read(server, open_door):
    assert fetch(server + "/modest") == CONTENT[:3]


def test_paths_and_queries_arrive_as_they_are(server, open_door):
    fetch(server + "/file/a%20b é?key=a%2Fb&x=ü")
    assert _Server.seen[-1][0] == "/file/a%20b%20%C3%A9?key=a%2Fb&x=%C3%BC"
    assert _Server.seen[-1][1] == server.removeprefix("http://")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/status/404", "404 Not Found"),
        ("/status/500", "500"),
        ("/status/304", "304"),
        ("/nothing", "nothing"),
        ("/page", "web page"),
        ("/packed", "gzip"),
        ("/short", "3 of 1000 bytes"),
        ("/huge", "more than 200000000 bytes"),
        ("/garbage", "cannot be read"),
        ("/hop/6", "redirects"),
        ("/to/file:///etc/passwd", "only http and https"),
        ("/to/ftp://example.org/x", "only http and https"),
        ("/to/http://name:secret@127.0.0.1/", "user name"),
    ],
)
def test_bad_answers_are_one_clear_error(server, open_door, path, message):
    with pytest.raises(FetchError, match=message) as problem:
        fetch(server + path)
    assert "secret" not in str(problem.value) and "\n" not in str(problem.value)


def test_an_endless_body_is_left(server, open_door):
    _Server.gone.clear()
    with pytest.raises(FetchError, match="more than 1000000 bytes"):
        fetch(server + "/endless", max_bytes=1_000_000)
    assert _Server.gone.wait(5)


@pytest.mark.parametrize("path", ["/drip", "/header"])
def test_slow_servers_are_left_in_time(server, open_door, path):
    start = time.monotonic()
    with pytest.raises(FetchError, match=r"within 0\.4 s"):
        fetch(server + path, timeout=0.4)
    assert time.monotonic() - start < 20  # the whole answer takes 50 s


def test_a_port_that_never_answers(open_door):
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(FetchError, match=r"within 0\.3 s"):
        fetch(f"http://127.0.0.1:{deaf.getsockname()[1]}/", timeout=0.3)


def test_a_closed_port(open_door):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(FetchError, match="(?i)refused"):
        fetch(f"http://127.0.0.1:{port}/")


def test_https_checks_the_other_side(server, open_door):
    with pytest.raises(FetchError, match="(?i)ssl|wrong version"):
        fetch(server.replace("http://", "https://") + "/file")


def test_https_names_the_host_and_never_leads_to_http(server, monkeypatch, open_door):
    """The host's own name goes into the handshake although the socket goes to a number."""
    asked = {}

    class Context:
        def wrap_socket(self, plain, server_hostname):
            asked["name"] = server_hostname
            return plain

    monkeypatch.setattr(ssl, "create_default_context", Context)
    port = server.rpartition(":")[2]
    with pytest.raises(FetchError, match="from https to http"):
        fetch(f"https://localhost:{port}/to/{server}/file")
    assert asked["name"] == "localhost"


# -- who may be asked -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
    ],
)
def test_private_addresses_in_every_spelling_are_refused(host, monkeypatch):
    def connect(*_, **__):
        raise AssertionError("it was asked all the same")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(FetchError, match="private network|no such host"):
        fetch(f"http://{host}/")


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_public(address):
    assert fetch_module._is_public(address)


def test_a_redirect_to_a_private_address_is_refused(server, monkeypatch):
    """The first server counts as public; where it leads to is looked at again."""
    port = server.rpartition(":")[2]
    real = fetch_module._is_public
    asked: list[str] = []

    def is_public(address):
        asked.append(address)
        return len(asked) == 1 or real(address)

    monkeypatch.setattr(fetch_module, "_is_public", is_public)
    with pytest.raises(FetchError, match="localhost is an address of this machine"):
        fetch(f"{server}/to/http://localhost:{port}/file")


def test_the_address_checked_is_the_one_asked(server, monkeypatch):
    """DNS that answers otherwise the second time is not asked a second time."""
    port = int(server.rpartition(":")[2])
    answers = iter([("93.184.216.34", port), ("127.0.0.1", port)])
    lookups, asked = [], []

    def getaddrinfo(host, *_, **__):
        lookups.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", next(answers))]

    def connect(address, timeout):
        asked.append(address)
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(FetchError, match="refused"):
        fetch(f"http://rebinding.example:{port}/file")
    assert lookups == ["rebinding.example"] and asked == [("93.184.216.34", port)]


def test_one_private_address_among_public_ones_is_enough(monkeypatch):
    entries = [(socket.AF_INET, 1, 6, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)
    with pytest.raises(FetchError, match=r"10\.0\.0\.1"):
        fetch("http://both.example/")


def test_no_such_host(monkeypatch):
    def getaddrinfo(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(FetchError, match="no such host: nowhere.example"):
        fetch("http://nowhere.example/clip.mp4?key=secret")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/passwd", "only http"),
        ("clip.mp4", "only http"),
        ("http://", "no host"),
        ("http://x:99999/", "not an address"),
        ("http://[::1/", "not an address"),
        ("http://user@example.org/", "user name"),
        ("http://a..b/", "no possible host"),
        ("http://exa mple/", "no such host|cannot be read"),
        ("http://x\r\nHost: y/", "not an address"),
    ],
)
def test_what_is_no_address_is_refused(url, message):
    with pytest.raises(FetchError, match=message) as problem:
        fetch(url)
    assert "\n" not in str(problem.value)


@given(st.text())
def test_any_text_is_refused_with_the_same_error(text):
    with pytest.raises(FetchError):
        fetch("gopher:" + text)
    try:
        read_data_uri(text)
        read_base64(text)
    except FetchError:
        pass


# -- data in text -----------------------------------------------------------------------------------------------------


def test_data_uris():
    packed = base64.b64encode(CONTENT).decode()
    assert read_data_uri(f"data:video/mp4;base64,{packed}") == CONTENT
    assert read_data_uri(f"DATA:;BASE64,{packed[:76]}\n{packed[76:]}") == CONTENT
    assert read_data_uri("data:text/plain,a%20b") == b"a b"
    for bad, message in (("data:video/mp4;base64", "form"), ("data:;base64,%%%", "base64"), ("data:;base64,", "empty")):
        with pytest.raises(FetchError, match=message):
            read_data_uri(bad)


def test_large_text_is_refused_before_it_is_decoded():
    for read in (read_base64, lambda text, max_bytes: read_data_uri("data:;base64," + text, max_bytes=max_bytes)):
        assert read("QUJD", max_bytes=3) == b"ABC"
        with pytest.raises(FetchError, match="more than 3 bytes"):
            read("QUJD" * 1000, max_bytes=3)


@given(st.binary(min_size=1))
def test_base64_round_trip(content):
    assert read_base64(base64.b64encode(content).decode()) == content


def test_only_media_is_taken_for_base64():
    clip = b"\x00\x00\x00\x20ftypisom" + bytes(300)
    packed = base64.b64encode(clip).decode()
    assert is_base64_media(packed) and is_base64_media("\n".join(packed[i : i + 76] for i in range(0, 400, 76)))
    assert not is_base64_media(base64.b64encode(b"any other bytes" * 40).decode())
    assert not is_base64_media(packed + "!") and not is_base64_media(packed[:100])
    assert not is_base64_media("what a lovely day it is today " * 20)
    assert not is_base64_media("/home/somebody/clips/" + "folder/" * 40 + "clip") and not is_base64_media(None)
    start = time.monotonic()
    assert not is_base64_media(" " * 5_000_000 + "!")
    assert time.monotonic() - start < 20


def test_is_url():
    assert is_url("http://x") and is_url("HTTPS://x")
    assert not any(map(is_url, ("httpx://x", "file:///x", "clip.mp4", b"http://x", None)))
