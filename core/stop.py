"""The signals that ask a run to stop: from a terminal that closes, a job scheduler, or a user."""
import os
import signal
import threading

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
    """Let a second one of these signals end the process at once, even while it waits for another process.

    Python calls a handler between two of its own instructions, and there is none as long as it waits. But the
    number of a signal is written to a pipe as soon as it arrives, and a thread reads it.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def count_signals():
        count = 0
        while count < 2:
            number, = os.read(reader, 1)
            count += number in SIGNALS
        os._exit(128 + number)

    threading.Thread(target=count_signals, daemon=True).start()
