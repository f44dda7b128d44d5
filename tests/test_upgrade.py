"""A request that asks to upgrade its connection is read again, as if it did not."""

import httptools
import pytest

from serving.upgrade import feed


class Reader:
    """Notes what is read, without the heads that ask to upgrade."""

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.read: list[tuple[bytes, bytes, str]] = []

    def on_message_begin(self) -> None:
        self.url, self.headers = b"", []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if not self.parser.should_upgrade():
            version = self.parser.get_http_version()
            self.read.append((self.parser.get_method(), self.url, version))


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"POST"])
def test_it_keeps_its_method(method: bytes) -> None:
    """Java's client asks each time, for the health too."""
    reader = Reader()
    asking = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\n"
    feed(reader, b"%b /v2/health/live HTTP/1.1\r\nHost: a\r\n%b\r\n" % (method, asking))
    assert reader.read == [(method, b"/v2/health/live", "1.1")]
    assert (b"host", b"a") in reader.headers
    assert b"upgrade" not in dict(reader.headers)
