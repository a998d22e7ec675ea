"""Where clients say that they are there: a Unix socket they hold open for as long as they live."""

import os
import selectors
import socket
from pathlib import Path

WELCOME = b"ok\n"


class Door:
    """Counts clients. Used by one thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clients: set[socket.socket] = set()
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            self._listener.bind(str(path))
        finally:
            os.umask(before)
        self._listener.listen(64)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def wait(self, timeout_s: float) -> None:
        """Lets clients in and out until something happened or the time is over."""
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._listener:
                self._welcome()
            elif isinstance(key.fileobj, socket.socket):
                self._listen_to(key.fileobj)

    def close(self) -> None:
        for client in list(self.clients):
            self._leave(client)
        self._selector.close()
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _welcome(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        client.setblocking(False)
        self.clients.add(client)
        self._selector.register(client, selectors.EVENT_READ)
        try:
            client.send(WELCOME)
        except OSError:
            self._leave(client)

    def _listen_to(self, client: socket.socket) -> None:
        try:
            if client.recv(64):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._leave(client)

    def _leave(self, client: socket.socket) -> None:
        self._selector.unregister(client)
        self.clients.discard(client)
        client.close()


def knock(path: str, timeout_s: float = 5.0) -> socket.socket | None:
    """A connection that keeps the supervisor alive until it is closed; None when nobody opens."""
    visitor = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    visitor.settimeout(timeout_s)
    try:
        visitor.connect(path)
        if visitor.recv(len(WELCOME)) == WELCOME:
            return visitor
    except OSError:
        pass
    visitor.close()
    return None
