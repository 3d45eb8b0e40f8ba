"""Media from where a request says it is: an address on the web, a data URI, base64 text.

An address comes from whoever asks, and this machine does the asking: it must not be made to read its own services,
its neighbours' or the cloud's metadata. So the name is resolved here, every address that it stands for is checked,
and the connection goes to the address checked: an answer of DNS that changes in between changes nothing. Redirects
pass the same checks. Proxies of the environment are not used, since they would resolve the name anew.
"""

import base64
import binascii
import io
import ipaddress
import os
import re
import socket
import ssl
import time
from contextlib import closing
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urljoin, urlsplit

from .errors import CLCRError
from .limits import MAX_FILE_BYTES as MAX_BYTES

TIMEOUT = 30.0
ALLOW_PRIVATE = "CLCR_ALLOW_PRIVATE_URLS"  # environment variable: "1" lets addresses of this machine and its net pass

_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK = 1 << 16
_PORTS = {"http": 80, "https": 443}
# IPv4 addresses written as IPv6 (NAT64): the last four bytes are what is reached in the end.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# How the media files that we read begin, as (offset, bytes). MP3 without tags and ADTS are told by their sync word.
_BEGINNINGS = (
    (4, b"ftyp"), (0, b"RIFF"), (0, b"RF64"), (0, b"\x1aE\xdf\xa3"), (0, b"OggS"), (0, b"fLaC"), (0, b"ID3"),
    (0, b"FLV\x01"), (0, b"\x30\x26\xb2\x75"), (0, b"\x00\x00\x01\xba"), (0, b"\x00\x00\x01\xb3"), (0, b"FORM"),
    (0, b".snd"), (0, b"caff"), (0, b"#!AMR"), (0, b"wvpk"), (0, b"\x0bw"), (0, b"GIF8"), (0, b"\xff\xd8\xff"),
    (0, b"\x89PNG"), (0, b"\xff\xfb"), (0, b"\xff\xf3"), (0, b"\xff\xf2"), (0, b"\xff\xf1"), (0, b"\xff\xf9"),
)  # fmt: skip
_LEAST_MEDIA = 128  # bytes; shorter text that happens to be base64 is text
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/= \t\r\n"


class FetchError(CLCRError):
    """Media that could not be had; the message says from where and why, without the query of the address."""


def fetch(
    url: str, *, max_bytes: int = MAX_BYTES, timeout: float = TIMEOUT, allow_private: bool | None = None
) -> bytes:
    """
    Reads what an http or https address answers.

    Args:
        url: the address.
        max_bytes: most bytes to accept, counted while they come.
        timeout: seconds for everything together, redirects too. (The look-up of a name takes as long as the system
            lets it.)
        allow_private: whether addresses of this machine and of private networks may be asked. Default: no, unless
            the environment has `CLCR_ALLOW_PRIVATE_URLS=1`.

    Returns:
        The body, at least one byte.

    Raises:
        FetchError: another scheme, an address that may not be asked, no such host, no answer in time, too many
            redirects or one from https to http, a status other than 200, a web page, an empty answer, one cut short,
            or one of more than `max_bytes`.
    """
    if allow_private is None:
        allow_private = os.environ.get(ALLOW_PRIVATE) == "1"
    deadline = time.monotonic() + timeout
    for _ in range(_MAX_REDIRECTS + 1):
        try:
            answer = _ask(url, max_bytes, deadline, allow_private)
        except TimeoutError as error:
            raise FetchError(f"{_shown(url)} did not answer in full within {timeout:g} s") from error
        except (OSError, HTTPException) as error:
            raise FetchError(f"{_shown(url)} cannot be read: {_plain(str(error)) or type(error).__name__}") from error
        if isinstance(answer, bytes):
            return answer
        if urlsplit(url).scheme.lower() == "https" and urlsplit(answer).scheme.lower() == "http":
            raise FetchError(f"{_shown(url)} leads from https to http: {_shown(answer)}; give the last address")
        url = answer
    raise FetchError(f"{_shown(url)}: more than {_MAX_REDIRECTS} redirects")


def is_url(value: Any) -> bool:
    """Whether `value` is a string with the scheme http or https."""
    return isinstance(value, str) and value[:8].lower().startswith(("http://", "https://"))


def read_data_uri(uri: str, *, max_bytes: int = MAX_BYTES) -> bytes:
    """
    The bytes inside `data:[type][;base64],...`.

    Raises:
        FetchError: not of that form, empty, or of more than `max_bytes`.
    """
    head, comma, body = uri.partition(",")
    if not head[:5].lower() == "data:" or not comma:
        raise FetchError("a data URI has the form data:video/mp4;base64,...")
    if head.lower().endswith(";base64"):
        return read_base64(body, max_bytes=max_bytes)
    _check_size(len(body) // 3, max_bytes, "the data URI")
    content = unquote_to_bytes(body)
    _check_size(len(content), max_bytes, "the data URI")
    return content


def read_base64(text: str, *, max_bytes: int = MAX_BYTES) -> bytes:
    """
    The bytes that `text` stands for; white space in it is allowed.

    Raises:
        FetchError: not base64, empty, or of more than `max_bytes`.
    """
    _check_size(len(text) * 3 // 4 - 2, max_bytes, "the base64 text")
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise FetchError(f"neither an address, a data URI nor base64: {error}") from error
    if not content:
        raise FetchError("the base64 text is empty")
    _check_size(len(content), max_bytes, "the base64 text")
    return content


def is_base64_media(value: Any) -> bool:
    """Whether `value` is a string that cannot be taken for anything but a media file in base64: nothing else in it, no
    scheme, and what it stands for begins as such a file does."""
    if not isinstance(value, str) or len(value) < _LEAST_MEDIA * 4 // 3:
        return False
    try:
        if value.encode("ascii").translate(None, delete=_BASE64):
            return False
        head = base64.b64decode("".join(value[:256].split())[:64])
    except (binascii.Error, ValueError):
        return False
    return any(head[offset : offset + len(mark)] == mark for offset, mark in _BEGINNINGS)


# -- one request -----------------------------------------------------------------------------------------------------


def _ask(url: str, max_bytes: int, deadline: float, allow_private: bool) -> bytes | str:
    """The body, or the address that the answer leads to."""
    scheme, host, port, target, shown = _parts(url)
    headers = {"User-Agent": "clcr_hf", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}
    with closing(HTTPConnection(f"[{host}]" if ":" in host else host, port)) as connection:
        connection.auto_open = 0  # it is connected here, to an address that was checked, or not at all
        connection.sock = _reach(host, port, deadline, allow_private)
        connection.sock.settimeout(_left(deadline))
        if scheme == "https":
            connection.sock = ssl.create_default_context().wrap_socket(connection.sock, server_hostname=host)
        connection.response_class = partial(_TimedResponse, deadline=deadline)  # type: ignore[assignment]
        connection.request("GET", target, headers=headers)
        with closing(connection.getresponse()) as response:
            if response.status in _REDIRECTS and response.headers.get("Location"):
                return urljoin(url, response.headers["Location"])
            _check_answer(response, shown)
            return _read_body(response, max_bytes, shown)


def _parts(url: str) -> tuple[str, str, int, str, str]:
    """Scheme, host, port, request target and the address as errors show it."""
    shown = _shown(url)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise FetchError(f"{shown} is not an address: {error}") from error
    scheme = parts.scheme.lower()
    if scheme not in _PORTS:
        raise FetchError(f"{shown}: only http and https addresses are read")
    if not host:
        raise FetchError(f"{shown} names no host")
    if parts.username is not None or parts.password is not None:
        raise FetchError(f"{shown} holds a user name or password; give an address without")
    try:
        host = host if ":" in host else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise FetchError(f"{shown} names no possible host") from error
    # What is escaped stays; blanks and letters outside ASCII get escaped.
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        target += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    return scheme, host, port or _PORTS[scheme], target, shown


def _check_answer(response: HTTPResponse, shown: str) -> None:
    if response.status != HTTPStatus.OK:
        raise FetchError(f"{shown} answered {response.status} {_plain(response.reason)}".rstrip())
    kind = response.headers.get_content_type()
    if kind in ("text/html", "application/xhtml+xml"):
        raise FetchError(f"{shown} is a web page; give the address of the media file itself")
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise FetchError(f"{shown} came packed as {_plain(coding)}, which was not asked for")


def _read_body(response: HTTPResponse, max_bytes: int, shown: str) -> bytes:
    """The body, counted while it comes; what the header says about its length is not believed."""
    promised = response.length  # None where it is not stated, or comes in chunks
    if promised is not None:
        _check_size(promised, max_bytes, shown)
    parts, size = [], 0
    while part := response.read(_CHUNK):
        parts.append(part)
        size += len(part)
        _check_size(size, max_bytes, shown)
    if promised is not None and size < promised:
        raise FetchError(f"{shown} was cut short: {size} of {promised} bytes came")
    if not size:
        raise FetchError(f"{shown} answered with nothing")
    return b"".join(parts)


def _check_size(size: int, max_bytes: int, shown: str) -> None:
    if size > max_bytes:
        raise FetchError(f"{shown} has more than {max_bytes} bytes, the most that is accepted")


def _shown(url: str) -> str:
    """The address without its query, which may hold keys, and without what could break a line."""
    text = re.split(r"[?#]", url, maxsplit=1)[0]
    text = re.sub(r"//[^/@]*@", "//", text)
    return _plain(text)


def _plain(text: str) -> str:
    """What others wrote, on one short line."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text.strip())
    return text if len(text) <= 120 else text[:117] + "..."


# -- connections -----------------------------------------------------------------------------------------------------


def _reach(host: str, port: int, deadline: float, allow_private: bool) -> socket.socket:
    """A socket to the first address of the host that answers."""
    problem: OSError = OSError(f"{host} has no address")
    for address in _addresses(host, port, allow_private):
        try:
            return socket.create_connection((address, port), timeout=_left(deadline))
        except OSError as error:
            problem = error
    raise problem


def _addresses(host: str, port: int, allow_private: bool) -> list[str]:
    """The numeric addresses of a host, all of them allowed."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchError(f"no such host: {host}") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    refused = [address for address in addresses if not allow_private and not _is_public(address)]
    if refused:
        raise FetchError(
            f"{host} is an address of this machine or of a private network ({refused[0]}), which is not asked; "
            f"where that is meant, set {ALLOW_PRIVATE}=1"
        )
    return addresses


def _is_public(address: str) -> bool:
    """Whether an address is one of the open internet, in whatever form it is written."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None or ip in _NAT64:
            return _is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        inner = (ip.sixtofour, *(ip.teredo or ()))
        if any(each is not None and not _is_public(str(each)) for each in inner):
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _TimedResponse(HTTPResponse):
    """An answer, each reading of which may take what is left of the time for all, so that a server that sends a byte
    now and then is not waited for longer."""

    def __init__(self, sock: socket.socket, deadline: float, **options: Any) -> None:
        super().__init__(sock, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_TimedReader(sock, deadline))


class _TimedReader(io.RawIOBase):
    def __init__(self, inner: socket.socket, deadline: float) -> None:
        self._inner, self._deadline = inner, deadline
        # Holds the socket open: `http.client` closes its own end of it as soon as the headers are read.
        self._stream = inner.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._inner.settimeout(_left(self._deadline))
        return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()
