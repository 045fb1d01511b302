"""The signals that ask a run to stop: from a terminal that closes, a job scheduler, or a user."""
import math
import os
import signal
import threading
import time

# SIGXCPU: the time limit of `ulimit -t`. SIGUSR1 and SIGUSR2: what schedulers send before a job's end.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


def handle_signals(handler):
    """Let `handler(number, frame)` receive these signals; return the handlers before, {number: handler}."""
    before = {}
    for number in SIGNALS:
        ignored = signal.getsignal(number) == signal.SIG_IGN
        if number == signal.SIGHUP and ignored:         # nohup: the run shall outlive its terminal
            continue
        before[number] = signal.signal(number, handler)
    return before


def exit_at_second_signal():
    """Let a second one of these signals end the process, even while it waits for another process.

    Python runs handlers in the main thread, between two of its instructions: not while that waits in C, as in
    an all_reduce. But the number of a signal is written to a pipe at once, and a thread reads it. Within a
    second a signal may be one that was sent twice, to this process and to its group.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def read_signals():
        first = math.inf                        # when the first one came
        while True:
            number, = os.read(reader, 1)
            now = time.monotonic()
            if number in SIGNALS and now > first + 1:
                os._exit(128 + number)
            if number in SIGNALS:
                first = min(first, now)

    threading.Thread(target=read_signals, daemon=True).start()
