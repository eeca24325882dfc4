"""A stand-in for ssh that runs the words here, with a connection that a test can cut: run as ``ssh`` from $PATH.

Under $FAKE_SSH: ``words`` holds what every connection fails with while the file is there; ``cuts`` holds a number a line,
each taken by one connection that breaks after so many bytes either way; ``pids`` gets a file a connection.
"""

import os
import subprocess
import sys
import threading


def take_cut(root):
    try:
        with open(f"{root}/cuts") as file:
            first, *rest = file.read().split("\n", 1)
    except OSError:
        return None
    with open(f"{root}/cuts", "w") as file:
        file.write(rest[0] if rest else "")
    return int(first) if first else None


def pump(source, target, left):
    try:
        while data := os.read(source, 65536):
            if left is not None:
                data, left[0] = data[: max(left[0], 0)], left[0] - len(data)
            while data:
                data = data[os.write(target, data) :]
            if left is not None and left[0] <= 0:
                os.write(2, b"Connection to board closed by remote host.\n")
                os._exit(255)
    except OSError:
        pass
    os.close(target)


def main():
    root, words = os.environ["FAKE_SSH"], sys.argv[-1]
    if os.path.exists(f"{root}/words"):
        with open(f"{root}/words") as file:
            sys.stderr.write(file.read())
        return 255
    if "-N" in sys.argv or "-O" in sys.argv:
        return 0
    with open(f"{root}/pids/{os.getpid()}", "w"):
        pass
    cut = take_cut(root)
    left = None if cut is None else [cut]
    words = "unset PYTHONPATH; " + words  # ssh hands no environment over
    child = subprocess.Popen(["sh", "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    threading.Thread(target=pump, args=(0, child.stdin.fileno(), left), daemon=True).start()
    pump(child.stdout.fileno(), 1, left)
    return child.wait()


code = main()
sys.stderr.flush()
os._exit(code)
