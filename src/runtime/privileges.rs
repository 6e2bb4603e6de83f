//! Giving up root: user, groups, and the way back.
//!
//! To be called on the starting thread after ports are bound and limits raised, and before any
//! other thread or any ring exists: a ring keeps the rights it was made with. Every step is
//! checked; on an error the process must end, for it may be half way.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::ptr::null_mut;

/// Privileges could not be given up.
#[derive(Debug)]
pub enum PrivilegeError {
    /// No such user.
    UnknownUser(String),
    /// The server was not started as root and is not that user either.
    NotRoot(String),
    /// A step failed.
    Failed(&'static str, io::Error),
}

impl PrivilegeError {
    /// Exit code after sysexits.h: 78 (configuration) or 71 (system).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if matches!(self, PrivilegeError::Failed(..)) { 71 } else { 78 }
    }
}

impl fmt::Display for PrivilegeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrivilegeError::UnknownUser(user) => write!(
                f,
                "there is no user {user:?} (server.user): create it, for example with \
                 `useradd --system --shell /usr/sbin/nologin {user}`"
            ),
            PrivilegeError::NotRoot(user) => {
                write!(f, "cannot become user {user:?} (server.user): start as root or as that user")
            }
            PrivilegeError::Failed(step, e) => write!(f, "cannot give up root privileges: {step}: {e}"),
        }
    }
}

impl std::error::Error for PrivilegeError {}

/// A user of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
}

/// Looks a user up by name.
///
/// # Errors
/// Unknown, or the user database cannot be read.
pub fn user(name: &str) -> Result<User, PrivilegeError> {
    let unknown = || PrivilegeError::UnknownUser(name.to_owned());
    let c_name = CString::new(name).map_err(|_| unknown())?;
    let mut memory = vec![0; 1 << 16];
    // SAFETY: all zeros is a valid `passwd`, which the call fills.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = null_mut();
    // SAFETY: a C string, a local value, memory of the length given, and a local pointer.
    let res = unsafe {
        libc::getpwnam_r(c_name.as_ptr(), &raw mut entry, memory.as_mut_ptr(), memory.len(), &raw mut found)
    };
    match res {
        _ if !found.is_null() => Ok(User { name: name.to_owned(), uid: entry.pw_uid, gid: entry.pw_gid }),
        // getpwnam(3) lists these for a name that is not there.
        0 | libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => Err(unknown()),
        errno => Err(PrivilegeError::Failed("getpwnam", io::Error::from_raw_os_error(errno))),
    }
}

/// True if this process may become any user.
#[must_use]
pub fn is_root() -> bool {
    // SAFETY: reads an id.
    unsafe { libc::geteuid() == 0 }
}

/// Becomes `user` for good and forbids to gain privileges by executing programs. Does only the
/// latter if the process runs as that user already.
///
/// # Errors
/// Not root, or a step failed.
pub fn drop_to(user: &User) -> Result<(), PrivilegeError> {
    // SAFETY: reads an id.
    let uid = unsafe { libc::geteuid() };
    if uid != 0 && uid != user.uid {
        return Err(PrivilegeError::NotRoot(user.name.clone()));
    }
    if uid == 0 && user.uid != 0 {
        become_user(user)?;
    }
    no_new_privileges()
}

fn become_user(user: &User) -> Result<(), PrivilegeError> {
    let name =
        CString::new(user.name.as_str()).map_err(|_| PrivilegeError::UnknownUser(user.name.clone()))?;
    set_ids(&name, user)?;
    // SAFETY: tries what must fail now, and reads ids.
    let (back, ids) = unsafe {
        let back = libc::setuid(0) == 0 || libc::setgid(0) == 0 && user.gid != 0;
        (back, (libc::getuid(), libc::geteuid(), libc::getgid(), libc::getegid()))
    };
    if back || ids != (user.uid, user.uid, user.gid, user.gid) {
        return Err(PrivilegeError::Failed("they are not gone", io::Error::other("still privileged")));
    }
    Ok(())
}

fn set_ids(name: &CStr, user: &User) -> Result<(), PrivilegeError> {
    let step = |what, res: libc::c_int| match res {
        0 => Ok(()),
        _ => Err(PrivilegeError::Failed(what, io::Error::last_os_error())),
    };
    // Groups first: they need the rights that the user id takes away. The C library's calls
    // change all threads.
    // SAFETY: a C string that outlives the call, and ids.
    unsafe {
        step("initgroups", libc::initgroups(name.as_ptr(), user.gid))?;
        step("setgid", libc::setresgid(user.gid, user.gid, user.gid))?;
        step("setuid", libc::setresuid(user.uid, user.uid, user.uid))
    }
}

/// Forbids this thread and those it starts to gain privileges by executing programs.
///
/// # Errors
/// The kernel refuses (it has known the call since 3.5).
pub fn no_new_privileges() -> Result<(), PrivilegeError> {
    // SAFETY: sets a flag; no memory.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(PrivilegeError::Failed("PR_SET_NO_NEW_PRIVS", io::Error::last_os_error())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::in_child;

    #[test]
    fn users_are_looked_up() {
        assert_eq!(user("root").unwrap(), User { name: "root".into(), uid: 0, gid: 0 });
        let error = user("no-such-user-here").unwrap_err();
        assert!(error.to_string().contains("useradd"), "{error}");
        assert_eq!(error.exit_code(), 78);
    }

    /// In a process of its own, for it cannot be undone.
    #[test]
    fn root_is_given_up_for_good() {
        // SAFETY: reads an id.
        if unsafe { libc::geteuid() } != 0
            || !in_child("runtime::privileges::tests::root_is_given_up_for_good")
        {
            return;
        }
        let nobody = user("nobody").unwrap();
        drop_to(&nobody).unwrap();
        assert!(matches!(drop_to(&user("root").unwrap()), Err(PrivilegeError::NotRoot(_))));
        drop_to(&nobody).unwrap();
        // SAFETY: system calls on ids and flags, and one on an empty list of groups.
        unsafe {
            assert_ne!(libc::setuid(0), 0);
            assert_eq!((libc::geteuid(), libc::getegid()), (nobody.uid, nobody.gid));
            assert_eq!(libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
            assert!(libc::getgroups(0, null_mut()) <= 1, "no groups of root are left");
        }
        // A ring can still be made.
        crate::runtime::checks::ring(&crate::runtime::uring::Options::small()).unwrap();
    }
}
