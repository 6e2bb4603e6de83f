"""Devices for crash tests: a logged disk, a failing disk, a small disk. Needs root and FUSE.

Everything made here is undone on the way out, also after an error, in the order umount,
losetup -d, fusermount3 -u, kill.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time

PACKAGES = ["qemu-utils", "nbdkit", "libnbd-bin", "nbdfuse", "fuse3", "e2fsprogs", "xfsprogs"]
TOOLS = ["qemu-storage-daemon", "nbdkit", "nbdfuse", "fusermount3", "mkfs.ext4", "losetup", "xfs_io"]


def sh(*words, check=True):
    """Runs a command for at most a minute."""
    return subprocess.run(words, check=check, timeout=60, capture_output=True, text=True)


def prepare(seconds):
    """Installs the Debian packages that are missing, and bounds the run: after `seconds`, or at
    SIGTERM, it fails and cleans up."""
    def stop(number, _):
        raise SystemExit("FAIL: out of time" if number == signal.SIGALRM else "FAIL: terminated")

    signal.signal(signal.SIGALRM, stop)
    signal.signal(signal.SIGTERM, stop)
    if os.geteuid() != 0:
        raise SystemExit("crash tests mount file systems: run them as root")
    if not all(shutil.which(t) for t in TOOLS):
        subprocess.run(["apt-get", "update", "-q"], check=True, timeout=300)
        subprocess.run(["apt-get", "install", "-qy", *PACKAGES], check=True, timeout=600)
    signal.alarm(seconds)


def verdict(name, wrong, text):
    """Prints the one line that sums up; gives the exit code."""
    print(f"{'FAIL' if wrong else 'PASS'} {name}: {text}" + "".join(f"; {w}" for w in wrong))
    return 1 if wrong else 0


def end(process):
    """Ends a process that was started here."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    if process.poll() is None:
        process.kill()
        process.wait(10)


def again(*words):
    """Runs a command of the clean-up; busy devices are tried for five seconds."""
    for _ in range(50):
        if sh(*words, check=False).returncode == 0:
            return
        time.sleep(0.1)
    print("clean-up failed:", *words)


@contextlib.contextmanager
def mounted(image, folder, format_it=False, kind="ext4", options="defaults", direct=False):
    """Mounts the file system in the file `image` at `folder` through a loop device."""
    os.makedirs(folder, exist_ok=True)
    past_cache = ["--direct-io=on"] if direct else []
    loop = sh("losetup", "-f", "--show", *past_cache, image).stdout.strip()
    try:
        if format_it:
            sh(*{"ext4": ["mkfs.ext4", "-q", "-m", "0"], "xfs": ["mkfs.xfs", "-q", "-f"]}[kind], loop)
        sh("mount", "-t", kind, "-o", options, loop, folder)
        try:
            yield folder
        finally:
            again("umount", folder)
    finally:
        again("losetup", "-d", loop)


def wait_size(path, size):
    """Waits until the FUSE file is there."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            if os.stat(path).st_size == size:
                return
        time.sleep(0.1)
    raise SystemExit(f"{path} did not become a device")


@contextlib.contextmanager
def logged_disk(folder, megabytes):
    """A disk whose writes are logged; gives (path of the device, path of the log)."""
    base, log, device = (os.path.join(folder, n) for n in ("base", "log", "device"))
    size = megabytes << 20
    for path, length in ((base, size), (log, 64 << 30), (device, 0)):
        with open(path, "wb") as f:
            f.truncate(length)
    drive = ["--blockdev", f"driver=file,filename={base},node-name=f"]
    drive += ["--blockdev", f"driver=file,filename={log},node-name=l"]
    drive += ["--blockdev", "driver=blklogwrites,file=f,log=l,node-name=d,log-sector-size=512,"
              "log-super-update-interval=1"]
    drive += ["--export", f"type=fuse,id=e,node-name=d,mountpoint={device},writable=on"]
    daemon = subprocess.Popen(["qemu-storage-daemon", *drive])
    try:
        wait_size(device, size)
        yield device, log
    finally:
        again("fusermount3", "-u", device)
        end(daemon)


@contextlib.contextmanager
def failing_disk(folder, megabytes):
    """A disk that fails every write while the trigger file exists; gives (device, trigger)."""
    image, device, trigger, socket = (
        os.path.join(folder, n) for n in ("image", "device", "trigger", "socket")
    )
    size = megabytes << 20
    for path, length in ((image, size), (device, 0)):
        with open(path, "wb") as f:
            f.truncate(length)
    errors = ["error=EIO", "error-pwrite-rate=100%", f"error-pwrite-file={trigger}"]
    server = subprocess.Popen(["nbdkit", "-f", "-U", socket, "--filter=error", "file", image, *errors])
    try:
        while not os.path.exists(socket):
            if server.poll() is not None:
                raise SystemExit("nbdkit does not start")
            time.sleep(0.1)
        fuse = subprocess.Popen(["nbdfuse", device, f"nbd+unix:///?socket={socket}"])
        try:
            wait_size(device, size)
            yield device, trigger
        finally:
            again("fusermount3", "-u", device)
            end(fuse)
    finally:
        end(server)
