"""The meaning of a failed computation for the machine: too little memory for its size, or a card that is lost.

After an error of CUDA that is not one of memory, such as an index out of bounds, every later call of this process fails
too. The card can only be had again by a new process, so this one ends.
"""

import os
import signal

import structlog
import torch

MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")  # of errors without a type of their own
log = structlog.get_logger()


def is_out_of_memory(error: BaseException | None) -> bool:
    """True where a smaller piece of work may do what this one could not."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY_WORDS)


def is_device_lost(error: BaseException | None) -> bool:
    """True where CUDA has an error that stays."""
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def free_device_memory() -> None:
    """Gives back what the allocator of a card holds in pieces of other sizes."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def end_process(why: str) -> None:
    """Ends this process as SIGTERM does: requests under way get the fallback, events are written.

    Something has to start it again: the supervisor an engine process, Docker, systemd or Kubernetes a whole service.
    """
    log.critical("device_lost", error=why[:500], pid=os.getpid())
    os.kill(os.getpid(), signal.SIGTERM)
