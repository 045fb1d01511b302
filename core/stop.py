"""The signals that ask a run to stop: from a terminal that closes, a job scheduler, or a user."""
import signal

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
