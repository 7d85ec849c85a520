"""Whether an address can be listened on, asked before anything is started."""

from __future__ import annotations

import errno
import socket

from kilter.core.errors import Conflict, Forbidden, InvalidInput

_REASONS: dict[int, tuple[type[Conflict | Forbidden | InvalidInput], str, str]] = {
    errno.EADDRINUSE: (Conflict, "the port is in use", "choose another port, or 0 for a free one"),
    errno.EACCES: (Forbidden, "this user may not listen on the port", "choose a port above 1023"),
    errno.EADDRNOTAVAIL: (InvalidInput, "this machine has no such address", "use 127.0.0.1"),
}


def free_port(host: str, port: int, option: str = "--port") -> int:
    """Return the port if it can be listened on, or a free one for 0.

    Args:
        host: The address.
        port: The port, or 0.
        option: What the user calls it, for the error.

    Raises:
        Conflict: When someone listens there already.
        Forbidden: When this user may not.
        InvalidInput: When the machine has no such address, or the port is no port.
    """
    if not 0 <= port <= 65535:
        raise InvalidInput(f"{port} is no port", where=option, allowed="0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        # Without SO_REUSEPORT on purpose: the servers set it, and would silently share the port with a second store's.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host.strip("[]"), port))
        except socket.gaierror:
            raise InvalidInput(f"{host!r} is no address", where="--host", fix="use 127.0.0.1") from None
        except OSError as error:
            kind, message, fix = _REASONS.get(error.errno or 0, (Conflict, f"can't listen: {error.strerror}", ""))
            raise kind(f"{message} ({host}:{port})", where=option, fix=fix) from None
        return int(trial.getsockname()[1])
