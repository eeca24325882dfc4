"""A process without what Windows lacks: ``python tests/without_posix.py COMMAND...`` imports ours, and runs a command.

What is not ours is imported before: it knows Windows by itself. Then the modules below cannot be imported, also inside
functions, and the names of ``os`` and ``signal`` are gone.
"""

import importlib
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile

MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "readline", "spwd", "syslog", "termios", "tty"}
OS = "fork forkpty getuid geteuid getgid getegid getpgid getpgrp setsid setpgid killpg uname sysconf sched_getaffinity nice "
OS += "getloadavg posix_fallocate posix_spawn fchmod fchown chown lchown statvfs mkfifo openpty wait wait3 wait4 waitid "
OS += "WNOHANG WIFSIGNALED O_NOFOLLOW O_DIRECTORY O_NONBLOCK O_CLOEXEC pread pwrite sendfile getpriority register_at_fork"
WINDOWS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIG_DFL", "SIG_IGN"}
SIGNALS = {name for name in dir(signal) if name.startswith("SIG")} - WINDOWS
SIGNALS |= {"alarm", "setitimer", "getitimer", "ITIMER_REAL", "pthread_sigmask", "pthread_kill", "pause", "sigwait"}
OTHERS = ("accelerate", "filelock", "getpass", "onnxruntime", "openvino", "PIL.Image", "rich.progress", "torch._dynamo")


class Absent:
    """A finder of no module of these names."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def take_away():
    for name in OTHERS:
        importlib.import_module(name)
    for name in MODULES & set(sys.modules):
        del sys.modules[name]
    sys.meta_path.insert(0, Absent())
    for module, names in ((os, OS.split()), (signal, SIGNALS)):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)


def import_ours():
    count = 0
    for package in ("profiles", "calib", "deploy", "compress"):
        for info in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not info.name.endswith("__main__"):
                importlib.import_module(info.name)
                count += 1
    return count


if __name__ == "__main__":
    assert subprocess and tempfile  # imported before they lose what they look for
    take_away()
    sys.stdout.write(f"imported {import_ours()} modules\n")
    from compress.cli.main import entry

    for command in " ".join(sys.argv[1:]).split(" + "):
        sys.stdout.write(f"{command}: exit {entry(command.split())}\n")
