"""What the judge and a box pass each other: bytes in sealed files, bytes out of pipes, never more than agreed."""

import fcntl
import os
import selectors
import socket

CHUNK = 1 << 16


def memory_file(data: bytes) -> int:
    """The descriptor of a file that holds these bytes, which nobody can change: not even the same user's programs."""
    fd = os.memfd_create("tessy", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return fd


class Stream:
    """The reading end of a pipe.

    Attributes:
        limit: of bytes; what comes after them is counted, and thrown away.
        keep_last: keeps the last bytes, not the first.
    """

    def __init__(self, limit: int, keep_last: int | None = None):
        self.reading, self.writing = os.pipe()
        self.limit, self.keep_last = limit, keep_last
        self.size, self.chunks = 0, bytearray()

    def read(self) -> bool:
        """Takes what is there; False at the end."""
        data = os.read(self.reading, CHUNK)
        self.size += len(data)
        if self.keep_last is not None:
            self.chunks = (self.chunks + data)[-self.keep_last :]
        elif self.size <= self.limit:
            self.chunks += data
        return bool(data)

    @property
    def overflows(self) -> bool:
        return self.size > self.limit

    @property
    def data(self) -> bytes:
        return bytes(self.chunks)


class Streams:
    """The pipes of a run, and the channel on which its keeper answers.

    Attributes:
        status: bubblewrap's own report.
        result: of a function that is called; None where the program has none.
    """

    def __init__(self, limit: int, result: bool):
        self.stdout, self.stderr, self.status = Stream(limit), Stream(limit, keep_last=4000), Stream(1 << 16)
        self.result = Stream(limit) if result else None
        self._all = [stream for stream in (self.stdout, self.stderr, self.status, self.result) if stream]
        self._selector = selectors.DefaultSelector()
        for stream in self._all:
            self._selector.register(stream.reading, selectors.EVENT_READ, stream)
        self._writing = [stream.writing for stream in self._all]
        self._unfinished = len(self._all)

    @property
    def unfinished(self) -> bool:
        return self._unfinished > 0

    @property
    def overflow(self) -> bool:
        return any(stream.overflows for stream in self._all)

    def listen(self, channel: socket.socket) -> None:
        self._selector.register(channel, selectors.EVENT_READ)

    def wait(self, seconds: float) -> bool:
        """Reads what comes within these seconds; True, once, where the channel has something to say."""
        heard = False
        for key, _ in self._selector.select(max(seconds, 0.0)):
            if key.data is None:
                heard = True
                self._selector.unregister(key.fileobj)
            elif not key.data.read():
                self._selector.unregister(key.fileobj)
                self._unfinished -= 1
        return heard

    def close_writing(self) -> None:
        """To be called when the keeper has these ends: a pipe ends when all that could write to it is gone."""
        for fd in self._writing:
            os.close(fd)
        self._writing = []

    def __enter__(self) -> "Streams":
        return self

    def __exit__(self, *error: object) -> None:
        self.close_writing()
        self._selector.close()
        for stream in self._all:
            os.close(stream.reading)
