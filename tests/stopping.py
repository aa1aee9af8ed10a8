"""Run ``vlls`` in a process that waits before a chosen step, for any time, until SIGTERM stops it.

    python stopping.py STEP train --epochs 100 ...

Under torchrun the first process asks torchrun to stop, and then waits.
"""

import os
import signal
import sys

from vlls.cli import main
from vlls.train._reporters import Progress

if __name__ == "__main__":
    step, at, together = Progress.step, int(sys.argv[1]), "LOCAL_RANK" in os.environ

    def wait_at(self, number):
        step(self, number)
        if number == at:
            if together:
                os.kill(os.getppid(), signal.SIGTERM)
            signal.sigwait({signal.SIGTERM})
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            signal.raise_signal(signal.SIGTERM)

    if not together or os.environ["LOCAL_RANK"] == "0":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Progress.step = wait_at
    main(sys.argv[2:])
