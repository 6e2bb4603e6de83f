"""What the machine says of a server: CPU of all its processes, memory, what else is busy; starting and ending
processes.

Knows nothing of mail. A server's processes are in a cgroup of their own (version 1 or 2), so that what
has ended counts, too; without one its process tree is summed from /proc. Whatever was started here is
ended by `Group.close`.
"""
import itertools
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import time

HZ = os.sysconf("SC_CLK_TCK")
DESCRIPTORS = 65536


class Group:
    """All processes of one server."""

    def __init__(self, name):
        self.kind, self.path, self.root = None, None, None
        for kind, root in (("v1", "/sys/fs/cgroup/cpuacct"), ("v2", "/sys/fs/cgroup")):
            path = pathlib.Path(root, f"ringpost-{name}-{os.getpid()}")
            try:
                path.mkdir()
            except OSError:
                continue
            if (path / ("cpuacct.usage" if kind == "v1" else "cpu.stat")).exists():
                self.kind, self.path = kind, path
                return
            path.rmdir()

    def spawn(self, cpus, log, *command):
        """Starts the server's first process."""
        def child():
            os.setsid()
            if self.path:
                (self.path / "cgroup.procs").write_text(str(os.getpid()))
            os.sched_setaffinity(0, cpus)
            descriptors()
        with open(log, "ab") as out:
            process = subprocess.Popen([str(c) for c in command], preexec_fn=child, stdin=subprocess.DEVNULL,
                                       stdout=out, stderr=out)
        self.root = process.pid
        return process

    def cpu(self):
        """Seconds, user and system."""
        if self.kind == "v1":
            return int((self.path / "cpuacct.usage").read_text()) / 1e9
        if self.kind == "v2":
            return int((self.path / "cpu.stat").read_text().split()[1]) / 1e6
        return sum(ticks for _, ticks in self.tree()) / HZ

    def tree(self):
        """Process and ticks, those of its ended children included, of the root and its descendants."""
        stat = {}
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rsplit(") ", 1)[1].split()
            except OSError:
                continue
            stat[int(path.parent.name)] = (int(fields[1]), sum(map(int, fields[11:15])))
        for pid, (_, ticks) in stat.items():
            at = pid
            while at != self.root and at > 1 and at in stat:
                at = stat[at][0]
            if at == self.root:
                yield pid, ticks

    def pids(self):
        if self.path:
            return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]
        return [pid for pid, _ in self.tree()]

    def pss(self):
        """Bytes of memory, shared pages divided among those who share them, and the number of processes."""
        total = count = 0
        for pid in self.pids():
            try:
                text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            total += next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
            count += 1
        return total << 10, count

    def settle(self, most):
        """Waits until the server does nothing any more; says whether it came to that."""
        end, before = time.monotonic() + most, self.cpu()
        while time.monotonic() < end:
            time.sleep(0.25)
            now = self.cpu()
            # A hundredth of a core: heartbeats of many processes.
            if now - before < 0.0025:
                return True
            before = now
        return False

    def close(self):
        """Ends what is left: nothing but what was started in this group."""
        for turn in range(100):
            pids = self.pids() if self.path or self.root else []
            if not pids:
                break
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGTERM if turn < 50 else signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.1)
        if self.path:
            for _ in range(50):
                try:
                    return self.path.rmdir()
                except OSError:
                    time.sleep(0.1)
            print(f"  {self.path} stays", file=sys.stderr)


def descriptors():
    """As many descriptors as the sessions need; what cannot be raised stays."""
    for most in (DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
        try:
            return resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        except (OSError, ValueError):
            continue
    return None


class Kernel:
    """Settings of the kernel that a thousand watching processes need; put back at the end."""

    def __init__(self):
        self.before = {}

    def at_least(self, name, value):
        path = pathlib.Path("/proc/sys", name)
        try:
            old = path.read_text().strip()
            if int(old) < value:
                path.write_text(str(value))
                self.before.setdefault(path, old)
        except OSError as e:
            print(f"  {path} stays as it is: {e}", file=sys.stderr)

    def close(self):
        for path, old in self.before.items():
            path.write_text(old)


class Measured:
    """`with Measured(group) as m`: CPU of the server from a quiet state to the next, wall time of what is
    inside, and what the generator and others took meanwhile."""

    def __init__(self, group):
        self.group = group

    def __enter__(self):
        self.group.settle(8)
        self.cpu0, self.machine0, self.own0 = self.group.cpu(), machine_busy(), time.process_time()
        self.began = time.monotonic()
        return self

    def __exit__(self, kind, *_):
        if kind:
            return
        self.wall = time.monotonic() - self.began
        own = time.process_time() - self.own0
        inside = self.group.cpu() - self.cpu0
        other = machine_busy() - self.machine0 - inside - own
        # What is left to do (copies to the archive, indexes, processes that end) belongs to it.
        self.settled = self.group.settle(8)
        self.cpu = self.group.cpu() - self.cpu0
        self.generator, self.server = own / self.wall, inside / self.wall
        self.other = max(0.0, other / self.wall / os.cpu_count())

    def row(self, ops):
        ops = max(1, ops)
        row = {"ops": ops, "seconds": self.wall, "per_second": ops / self.wall, "cpu_us": self.cpu / ops * 1e6,
               "server_busy": self.server, "generator_busy": self.generator, "other_load": self.other}
        return row if self.settled else row | {"settled": False}


def machine_busy():
    """Busy seconds of the machine so far."""
    with open("/proc/stat", encoding="ascii") as f:
        fields = list(map(int, f.readline().split()[1:]))
    return (sum(fields[:3]) + sum(fields[5:8])) / HZ


def free_ports(count, candidates=itertools.count(20000 + os.getpid() % 8000)):
    """Ports that nobody listens on now, below those that the kernel gives to clients; never the same again."""
    found = []
    while len(found) < count:
        port = next(candidates)
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    return found


def wait_port(port, what, process, log):
    for _ in range(300):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(f"{what} does not start: {log.read_text(errors='replace')[-3000:] if log.exists() else 'no log'}")
