"""Plain HTTP beside the gRPC port: /metrics for Prometheus, /livez and /readyz for an orchestrator. It shows nothing of
a silo's data.
"""

from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

from crypto.errors import ConfigError


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parameter's name is the library's
        """Log nothing: a probe every few seconds is not news."""


def serve_health(registry: CollectorRegistry, ready: Callable[[], bool], host: str, port: int) -> int:
    """Serve until the process ends; return the port that is listened on, a free one where 0 was asked for.

    Raises ConfigError where the address cannot be listened on.
    """
    metrics = make_wsgi_app(registry)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            exposition: Iterable[bytes] = metrics(environ, start_response)
            return exposition
        status = {"/livez": "200 OK", "/readyz": "200 OK" if ready() else "503 Service Unavailable"}.get(
            path, "404 Not Found"
        )
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [status.encode() + b"\n"]

    try:
        server = make_server(host, port, app, _Server, _Quiet)
    except (OSError, OverflowError) as error:
        problem = getattr(error, "strerror", error)
        raise ConfigError(
            f"metrics address {host}:{port}: {problem}", hint="another port, or 0 for a free one"
        ) from None
    Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server.server_port
