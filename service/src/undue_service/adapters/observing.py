"""The port for operators: /metrics, /healthz, /readyz. It holds no data of anybody's."""

import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from undue_service.domain.errors import Error, Reason, Unavailable

log = logging.getLogger(__name__)

_TEXT = "text/plain; charset=utf-8"


class Observing:
    """An HTTP server on a thread of its own.

    Raises:
        Unavailable: ADDRESS_UNAVAILABLE.
    """

    def __init__(self, address: str, registry: CollectorRegistry, ready: Callable[[], bool]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                status, kind, body = _answer(self.path, self.headers.get("Accept", ""), registry, ready)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing: a scrape every few seconds is no news."""

        host, _, port = address.rpartition(":")
        try:
            self._server = ThreadingHTTPServer((host.strip("[]"), int(port)), Handler)
        except OSError as error:
            text = f"cannot listen on {address} for metrics: {error.strerror}; choose another UNDUE_METRICS_ADDRESS"
            raise Unavailable(Reason.ADDRESS_UNAVAILABLE, text) from error
        self.address = f"{host}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, name="observing", daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


def _answer(path: str, accept: str, registry: CollectorRegistry, ready: Callable[[], bool]) -> tuple[int, str, bytes]:
    match path.partition("?")[0]:
        case "/metrics":
            encode, kind = choose_encoder(accept)
            try:
                return 200, kind, encode(registry)
            except Error as error:
                return 503, _TEXT, f"{error.message}\n".encode()
        case "/healthz":
            return 200, _TEXT, b"ok\n"
        case "/readyz":
            return (200, _TEXT, b"ready\n") if _is(ready) else (503, _TEXT, b"not ready\n")
        case _:
            return 404, _TEXT, b"/metrics, /healthz, /readyz\n"


def _is(ready: Callable[[], bool]) -> bool:
    try:
        return ready()
    except Error as error:
        log.warning("not ready", extra={"reason": error.reason, "cause": error.message})
        return False
