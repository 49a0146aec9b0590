"""A relay on loopback that keeps every byte that clients send through it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class RecordingProxy:
    """Pass connections on to a port of this machine and remember what goes towards it.

    Parameters
    ----------
    port : int
        Where everything goes.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._lock = threading.Lock()
        self._sent: list[bytearray] = []
        host, port = self._listener.getsockname()
        self.address = f"{host}:{port}"

    def __enter__(self) -> RecordingProxy:
        """Take connections from now on."""
        self._threads[0].start()
        return self

    def __exit__(self, *error: object) -> None:
        """Take no more; the open ones have ended with their clients."""
        _hang_up(self._listener)
        self._listener.close()
        for thread in self._threads:
            thread.join(timeout=10)

    @property
    def sent(self) -> bytes:
        """All that clients have sent, connection after connection."""
        with self._lock:
            return b"\n".join(bytes(part) for part in self._sent)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._relay, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _relay(self, client: socket.socket) -> None:
        kept = bytearray()
        with self._lock:
            self._sent.append(kept)
        with client, suppress(OSError), socket.create_connection(self._target) as server:
            back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
            back.start()
            self._pump(client, server, kept)
            back.join()

    def _pump(
        self, source: socket.socket, sink: socket.socket, kept: bytearray | None = None
    ) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if kept is not None:
                    with self._lock:
                        kept.extend(data)
                sink.sendall(data)
        _hang_up(sink)


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
