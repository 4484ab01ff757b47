"""Sockets at which a pod listens to all that reach it."""

from __future__ import annotations

import errno
import socket


def listen(port: int, host: str = "") -> socket.socket:
    """A listening socket. Raises OSError if the port is taken.

    Args:
        port: 0 for any.
        host: address to listen at; all of them, of IPv4 and IPv6, where it is empty.
    """
    if not host and socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:  # IPv6 is switched off
                raise
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)
