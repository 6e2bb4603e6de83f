//! What must hold before the server starts: kernel, io_uring, limits, file system, the data
//! directory's lock. Each failure says what is wrong and what to do about it, and has an exit code
//! after sysexits.h. Runs on the starting thread, before cores exist; waits a few seconds at most.

#![allow(unsafe_code, clippy::disallowed_methods)]

use super::privileges::User;
use super::uring;
use std::ffi::CString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The oldest kernel that will do (6.1: Debian 12).
const KERNEL: (u32, u32) = (6, 1);
/// How long the lock of the data directory is waited for: a killed process holds it until its
/// last writes have landed.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Name of the lock file in the data directory.
const LOCK_FILE: &str = "lock";

/// Why the server cannot start.
#[derive(Debug)]
pub enum StartError {
    /// The kernel is older than 6.1; its release.
    KernelTooOld(String),
    /// `io_uring_setup` is not permitted.
    RingForbidden,
    /// The kernel was built without io_uring.
    RingMissing,
    /// Not enough locked memory for the rings; the limit in bytes.
    RingMemory(u64),
    /// Another error of `io_uring_setup`.
    Ring(io::Error),
    /// Operations that this kernel's io_uring does not have.
    RingOperations(Vec<&'static str>),
    /// A limit cannot be read or raised.
    Limit(&'static str, io::Error),
    /// The data directory belongs to another process; its pid, if the lock file tells.
    DataDirOwned(PathBuf, Option<u32>),
    /// The data directory cannot be used.
    DataDir(PathBuf, io::Error),
    /// The file system keeps no promises; its name.
    FileSystem(PathBuf, String),
}

impl StartError {
    /// Exit code after sysexits.h: 75 (try again), 78 (configuration), 71 (system).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::DataDirOwned(..) => 75,
            StartError::KernelTooOld(_)
            | StartError::RingForbidden
            | StartError::RingMissing
            | StartError::RingMemory(_)
            | StartError::RingOperations(_)
            | StartError::FileSystem(..)
            | StartError::DataDir(..) => 78,
            StartError::Ring(_) | StartError::Limit(..) => 71,
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::KernelTooOld(release) => write!(
                f,
                "kernel {release} is too old: 6.1 or newer is needed (Debian 12, Ubuntu 24.04, RHEL 10)"
            ),
            StartError::RingForbidden => f.write_str(
                "io_uring is forbidden here: set `sysctl kernel.io_uring_disabled=0` (or 1 and put the \
                 service's group into kernel.io_uring_group); in a container allow io_uring_setup, \
                 io_uring_enter and io_uring_register in the seccomp profile",
            ),
            StartError::RingMissing => {
                f.write_str("this kernel has no io_uring: boot one that is built with CONFIG_IO_URING")
            }
            StartError::RingMemory(limit) => write!(
                f,
                "not enough locked memory for the rings: the limit is {} KiB; raise it \
                 (systemd: LimitMEMLOCK=infinity, container: --ulimit memlock=-1, shell: ulimit -l)",
                limit / 1024
            ),
            StartError::Ring(e) => write!(f, "cannot set up io_uring: {e}"),
            StartError::RingOperations(names) => {
                write!(f, "io_uring of this kernel lacks {}: boot a newer one", names.join(", "))
            }
            StartError::Limit(what, e) => write!(f, "cannot read or raise the limit of {what}: {e}"),
            StartError::DataDirOwned(dir, pid) => {
                write!(f, "{} is in use by another process", dir.display())?;
                match pid {
                    Some(pid) => write!(f, " (pid {pid}); stop that one first"),
                    None => f.write_str("; stop that one first"),
                }
            }
            StartError::DataDir(dir, e) => {
                write!(f, "cannot use the data directory {}: {e}", dir.display())
            }
            StartError::FileSystem(dir, kind) => write!(
                f,
                "{} is on {kind}, which does not keep mail safe through a crash: use a local ext4, XFS or \
                 btrfs (in a container: a volume), or accept the loss with storage.durability = \"weak\"",
                dir.display()
            ),
        }
    }
}

impl std::error::Error for StartError {}

/// Checks that the kernel is new enough.
///
/// # Errors
/// [`StartError::KernelTooOld`].
pub fn kernel() -> Result<(), StartError> {
    let release = kernel_release();
    // A release that cannot be read is left to the check of the operations.
    if release_number(&release).is_some_and(|number| number < KERNEL) {
        return Err(StartError::KernelTooOld(release));
    }
    Ok(())
}

fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

fn release_number(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Makes a ring as the cores do, and checks that it has the operations in use.
///
/// # Errors
/// The ones whose names begin with `Ring`.
pub fn ring(options: &uring::Options) -> Result<(), StartError> {
    let missing = uring::probe(options).map_err(ring_error)?;
    if missing.is_empty() { Ok(()) } else { Err(StartError::RingOperations(missing)) }
}

/// What an error of making a ring means.
#[must_use]
pub fn ring_error(e: io::Error) -> StartError {
    match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => StartError::RingForbidden,
        Some(libc::ENOSYS) => StartError::RingMissing,
        Some(libc::ENOMEM) => StartError::RingMemory(limit(libc::RLIMIT_MEMLOCK).map_or(0, |l| l.rlim_cur)),
        // Flags of a newer kernel than this one.
        Some(libc::EINVAL) if release_number(&kernel_release()).is_some_and(|n| n < KERNEL) => {
            StartError::KernelTooOld(kernel_release())
        }
        _ => StartError::Ring(e),
    }
}

/// Raises the limits of descriptors and locked memory as far as this process may (before it gives
/// up its privileges). Returns the number of descriptors.
///
/// # Errors
/// [`StartError::Limit`].
pub fn raise_limits() -> Result<u64, StartError> {
    raise(libc::RLIMIT_MEMLOCK).map_err(|e| StartError::Limit("locked memory", e))?;
    raise(libc::RLIMIT_NOFILE).map_err(|e| StartError::Limit("open files", e))
}

fn limit(which: libc::__rlimit_resource_t) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is a local value that the call fills.
    match unsafe { libc::getrlimit(which, &raw mut limit) } {
        0 => Ok(limit),
        _ => Err(io::Error::last_os_error()),
    }
}

fn raise(which: libc::__rlimit_resource_t) -> io::Result<u64> {
    let mut limit = limit(which)?;
    if limit.rlim_cur != limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the limit is a local value that the call reads.
        if unsafe { libc::setrlimit(which, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}

/// File systems that lose data in a crash or do not say when data are safe; statfs(2) numbers.
/// Unknown ones are believed.
const UNSAFE: [(u32, &str); 13] = [
    (0x0102_1994, "tmpfs (memory)"),
    (0x8584_58f6, "ramfs (memory)"),
    (0x794c_7630, "overlayfs (a container's own layer)"),
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x517b, "SMB"),
    (0x0102_1997, "9p"),
    (0x5346_414f, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x6573_5546, "FUSE"),
    (0x786f_4256, "vboxsf"),
    (0x0116_1970, "GFS2"),
];

/// Checks that the file system of `dir` keeps promises; `weak` accepts any.
///
/// # Errors
/// [`StartError::FileSystem`], or the directory cannot be looked at.
pub fn file_system(dir: &Path, weak: bool) -> Result<(), StartError> {
    let failed = |e| StartError::DataDir(dir.to_path_buf(), e);
    let path = CString::new(dir.as_os_str().as_bytes()).map_err(|e| failed(e.into()))?;
    // SAFETY: all zeros is a valid `statfs`, which the call fills.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a C string and a local value that outlive the call.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut stat) } != 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    match UNSAFE.iter().find(|(magic, _)| *magic == stat.f_type as u32) {
        Some((_, name)) if !weak => Err(StartError::FileSystem(dir.to_path_buf(), (*name).to_owned())),
        _ => Ok(()),
    }
}

/// The data directory is ours until this is dropped.
#[derive(Debug)]
pub struct DataDirLock {
    file: OwnedFd,
}

impl DataDirLock {
    /// The descriptor that holds the lock.
    #[must_use]
    pub fn descriptor(&self) -> &OwnedFd {
        &self.file
    }
}

/// Makes `dir` if it is missing and takes its lock, waiting a few seconds for an owner that ends.
/// Started as root, directory and lock file are given to `user`, who works in them afterwards.
///
/// # Errors
/// [`StartError::DataDirOwned`] or [`StartError::DataDir`].
pub fn lock_data_dir(dir: &Path, user: Option<&User>) -> Result<DataDirLock, StartError> {
    let lock = lock_within(dir, LOCK_WAIT)?;
    // SAFETY: reads an id.
    if let (Some(user), 0) = (user, unsafe { libc::geteuid() }) {
        let give = |path: &Path| chown(path, Some(user.uid), Some(user.gid));
        give(dir)
            .and_then(|()| give(&dir.join(LOCK_FILE)))
            .map_err(|e| StartError::DataDir(dir.to_path_buf(), e))?;
    }
    Ok(lock)
}

fn lock_within(dir: &Path, wait: Duration) -> Result<DataDirLock, StartError> {
    let failed = |e| StartError::DataDir(dir.to_path_buf(), e);
    uring::disk::create_dir(dir).map_err(failed)?;
    // Not truncated: it names the owner, who may not be us.
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(dir.join(LOCK_FILE)).map_err(failed)?;
    let mut fd = OwnedFd::from(file);
    let until = Instant::now() + wait;
    while !uring::disk::try_flock(&fd).map_err(failed)? {
        if Instant::now() >= until {
            return Err(StartError::DataDirOwned(dir.to_path_buf(), owner(fd)));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut file = File::from(fd);
    let pid = format!("{}\n", std::process::id());
    file.set_len(0).and_then(|()| file.write_all(pid.as_bytes())).map_err(failed)?;
    fd = file.into();
    Ok(DataDirLock { file: fd })
}

/// The pid in a lock file.
fn owner(fd: OwnedFd) -> Option<u32> {
    let mut file = File::from(fd);
    file.rewind().ok()?;
    let mut text = String::new();
    file.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_will_do() {
        kernel().unwrap();
        assert!(raise_limits().unwrap() >= 64);
        ring(&uring::Options::small()).unwrap();
    }

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(release_number("6.12.4-rc1+deb"), Some((6, 12)));
        assert_eq!(release_number("10.0"), Some((10, 0)));
        assert_eq!(release_number("linux"), None);
        assert!(release_number("5.19.0").unwrap() < KERNEL && release_number("6.1.0").unwrap() >= KERNEL);
    }

    #[test]
    fn ring_errors_say_what_to_do() {
        let explain = |errno| ring_error(io::Error::from_raw_os_error(errno));
        for (errno, hint) in [
            (libc::EPERM, "kernel.io_uring_disabled"),
            (libc::ENOSYS, "CONFIG_IO_URING"),
            (libc::ENOMEM, "LimitMEMLOCK"),
        ] {
            let error = explain(errno);
            assert!(error.to_string().contains(hint), "{error}");
            assert_eq!(error.exit_code(), 78);
        }
        assert_eq!(explain(libc::EMFILE).exit_code(), 71);
    }

    #[test]
    fn memory_file_systems_are_refused() {
        let shm = Path::new("/dev/shm");
        let Err(error) = file_system(shm, false) else { return };
        assert!(error.to_string().contains("durability"), "{error}");
        assert_eq!(error.exit_code(), 78);
        file_system(shm, true).unwrap();
        assert!(file_system(Path::new("/nonexistent/dir"), false).is_err());
    }

    #[test]
    fn the_data_directory_has_one_owner() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("deep/data");
        let lock = lock_within(&dir, Duration::ZERO).unwrap();
        let error = lock_within(&dir, Duration::from_millis(60)).unwrap_err();
        assert_eq!(error.exit_code(), 75);
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
        // An owner that ends meanwhile is waited for.
        let ending = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(lock);
        });
        let lock = lock_within(&dir, Duration::from_secs(10)).unwrap();
        ending.join().unwrap();
        assert!(!uring::disk::try_flock(&File::open(dir.join(LOCK_FILE)).unwrap().into()).unwrap());
        drop(lock);
    }

    #[test]
    fn the_data_directory_is_given_to_the_user() {
        use std::os::unix::fs::MetadataExt;
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("data");
        let nobody = crate::runtime::privileges::user("nobody").unwrap();
        let _lock = lock_data_dir(&dir, Some(&nobody)).unwrap();
        let us = fs::metadata(base.path()).unwrap().uid();
        for path in [dir.clone(), dir.join(LOCK_FILE)] {
            let owner = fs::metadata(path).unwrap().uid();
            assert_eq!(owner, if us == 0 { nobody.uid } else { us });
        }
    }
}
