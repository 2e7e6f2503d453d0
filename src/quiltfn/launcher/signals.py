"""The effects of signals on launcher and server; docs/how-to/install.md has the table."""

import signal

# All signals whose action can be set.
SETTABLE = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
DRAINING = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
# Signals that report a crash, stop a process or do nothing by default keep their default action.
# All others are ignored, so that none ends the launcher without its clean-up.
LEFT_ALONE = {
    *(signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS),
    *(signal.SIGTRAP, signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN),
    *(signal.SIGTTOU, signal.SIGCONT, signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH),
}


def take_over() -> None:
    """In the launcher: reports `DRAINING` signals by `signal.set_wakeup_fd`, and ignores others.

    Resets signals that the parent process has ignored or blocked: with SIGCHLD ignored, the
    launcher could not wait for children.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in DRAINING:
        signal.signal(number, lambda *_: None)
    for number in signal.valid_signals() - DRAINING - LEFT_ALONE:
        signal.signal(number, signal.SIG_IGN)


def give_to_server() -> None:
    """In the forked server: prepares signals. It still ignores what the launcher ignores."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A terminal sends these to the whole process group; the launcher then drains the server.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
