"""Events on disk while Redis is away: append-only files in a folder, bounded in bytes, read again when it is back.

Each process has a file of its own and holds its lock; at start it also takes over the files of processes that are gone.
What is read is forgotten only when its whole file is, so a process that is killed meanwhile leaves events that are
delivered twice, never events that are lost; their ids make that harmless. Blocks: call it in a thread.
"""

import fcntl
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from uuid import uuid4

from service.errors import ConfigurationError

Entry = tuple[str, bytes]  # stream, event as JSON: neither holds a tab or a line feed
SUFFIX = ".spool"
READ_BYTES = 1 << 20  # at once


class SpoolFile:
    """One file under our lock."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor
        self._offset = 0  # of what was not read yet
        self.num_bytes = os.fstat(descriptor).st_size

    @classmethod
    def lock(cls, path: Path) -> "SpoolFile | None":
        """The file, made where it does not exist; None while another process holds it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return cls(path, descriptor)

    @property
    def is_empty(self) -> bool:
        return self._offset >= self.num_bytes

    def append(self, data: bytes) -> None:
        """Raises OSError with the file as it was."""
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            # half an entry would spoil the next
            os.ftruncate(self._descriptor, self.num_bytes)
            raise
        self.num_bytes += len(data)

    def read(self, max_bytes: int) -> tuple[list[bytes], int]:
        """Whole lines that were not forgotten yet, and their bytes; what a crash tore off at the end is passed over."""
        data = os.pread(self._descriptor, max_bytes, self._offset)
        end = data.rfind(b"\n") + 1
        if not end:
            # either torn, or longer than what is read at once, which no event is
            return [], len(data)
        return data[:end].splitlines(), end

    def forget(self, num_bytes: int) -> None:
        """Passes over what was read; a file that was read to its end is emptied."""
        self._offset += num_bytes
        if self.is_empty:
            os.ftruncate(self._descriptor, 0)
            self._offset = self.num_bytes = 0

    def close(self) -> None:
        """Leaves what is in it on disk; an empty file is removed."""
        if self.is_empty:
            self._path.unlink(missing_ok=True)
        else:
            os.fsync(self._descriptor)
        os.close(self._descriptor)


class Spool:
    """The spool of one process."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Raises ConfigurationError where the folder cannot be written."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            inherited = [SpoolFile.lock(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
            own = SpoolFile.lock(folder / f"{uuid4().hex}{SUFFIX}")
        except OSError as error:
            raise ConfigurationError(f"no spool in {folder}: {error.strerror}") from error
        # locked files belong to processes that live
        self._files = [file for file in (*inherited, own) if file]  # the last is ours
        self._max_bytes = max_bytes

    @property
    def num_bytes(self) -> int:
        """Bytes on disk; 0 once all that was read is forgotten."""
        return sum(file.num_bytes for file in self._files)

    def append(self, entries: Iterable[Entry]) -> int:
        """Keeps events in their order; returns how many: not all where the bound or the disk is reached."""
        lines, left = [], self._max_bytes - self.num_bytes
        for stream, data in entries:
            line = b"%s\t%s\n" % (stream.encode(), data)
            left -= len(line)
            if left < 0:
                break
            lines.append(line)
        try:
            self._files[-1].append(b"".join(lines))
        except OSError:
            return 0
        return len(lines)

    def read(self) -> tuple[Sequence[Entry], int]:
        """The oldest events, and the number of bytes to forget once they are delivered."""
        file = self._first()
        if file is None:
            return [], 0
        lines, num_bytes = file.read(READ_BYTES)
        # a line without its mark was torn, and is passed over
        pairs = [line.partition(b"\t") for line in lines]
        return [(stream.decode(errors="replace"), data) for stream, mark, data in pairs if mark], num_bytes

    def forget(self, num_bytes: int) -> None:
        """Forgets what `read` gave; with it the file of another process that was read to its end."""
        file = self._first()
        if file is None:
            return
        file.forget(num_bytes)
        if file.is_empty and file is not self._files[-1]:
            self._files.remove(file)
            file.close()

    def close(self) -> None:
        for file in self._files:
            file.close()
        self._files = []

    def _first(self) -> SpoolFile | None:
        return next((file for file in self._files if not file.is_empty), None)
