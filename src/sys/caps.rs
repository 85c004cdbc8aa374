//! Capabilities and users (capabilities(7)): keep what is needed, for good.

use nix::unistd::{Gid, Group, Uid, User, getgid, getuid, setgroups, setresgid, setresuid};
use std::io;

/// Send signals to any process.
pub const KILL: u32 = 5;
/// Bind ports below 1024.
pub const NET_BIND_SERVICE: u32 = 10;
/// Change addresses.
pub const NET_ADMIN: u32 = 12;
/// Open packet sockets.
pub const NET_RAW: u32 = 13;

const LAST: u32 = 63; // two 32-bit words; the kernel says EINVAL to those it doesn't know

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Words {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const fn header() -> Header {
    Header { version: 0x2008_0522, pid: 0 } // _LINUX_CAPABILITY_VERSION_3, this thread
}

/// This process's permitted capabilities as a bit mask.
pub fn permitted() -> io::Result<u64> {
    let mut words = [Words::default(); 2];
    // SAFETY: version 3 reads one header and writes two word triples, which these are.
    let result = unsafe { libc::syscall(libc::SYS_capget, &header(), words.as_mut_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from(words[0].permitted) | u64::from(words[1].permitted) << 32)
}

fn set(mask: u64, inheritable: u64) -> io::Result<()> {
    let word =
        |bits: u64, inheritable: u64| Words { effective: bits as u32, permitted: bits as u32, inheritable: inheritable as u32 };
    let words = [word(mask, inheritable), word(mask >> 32, inheritable >> 32)];
    // SAFETY: version 3 reads one header and two word triples, which these are.
    let result = unsafe { libc::syscall(libc::SYS_capset, &header(), words.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn prctl(option: libc::c_int, argument: libc::c_ulong) -> io::Result<()> {
    prctl_with(option, argument, 0)
}

fn prctl_with(option: libc::c_int, argument: libc::c_ulong, second: libc::c_ulong) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the options used here take integers, no pointers.
    let result = unsafe { libc::prctl(option, argument, second, zero, zero) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Keeps, of the capabilities this process has, only these (an empty list: none), and gives up every way to get others:
/// nothing inheritable or ambient, no new privileges by exec, the bounding set emptied of all others where CAP_SETPCAP allows.
///
/// Acts on the calling thread: call it while there is one.
pub fn keep_only(capabilities: &[u32]) -> io::Result<()> {
    empty_bounding_set(capabilities);
    // Fails only before Linux 4.3, which has no ambient set.
    let _ = prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong);
    let wanted = capabilities.iter().filter(|c| **c <= LAST).fold(0, |mask, c| mask | 1u64 << c);
    set(permitted()? & wanted, 0)?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// The program that takes this one's place keeps the capabilities that this one has; its children, and those of this program, don't get
/// them once [`keep_only`] is called again. (That no new privileges are allowed does not stand against it: these are not new.)
///
/// # Errors
/// Before Linux 4.3, which has no ambient set.
pub fn keep_over_exec() -> io::Result<()> {
    let mask = permitted()?;
    set(mask, mask)?;
    let raise =
        |capability: u32| prctl_with(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong, capability.into());
    (0..=LAST).filter(|capability| mask >> capability & 1 == 1).try_for_each(raise)
}

/// Only the daemon hands a capability on over exec ([`keep_over_exec`]), for which it has to stay here.
fn empty_bounding_set(kept: &[u32]) {
    for capability in (0..=LAST).filter(|c| *c != NET_BIND_SERVICE || !kept.contains(c)) {
        // EPERM without CAP_SETPCAP, EINVAL past the last one: with no_new_privs the set has no way to act anyway.
        let _ = prctl(libc::PR_CAPBSET_DROP, capability.into());
    }
}

/// Becomes an unprivileged process: the user and group if given (names or numbers; the user's own group where only he is), no
/// other groups, and no capability but NET_BIND_SERVICE. An error names what was tried.
pub fn drop_to_unprivileged(user: Option<&str>, group: Option<&str>) -> io::Result<()> {
    let (uid, gid) = ids(user, group)?;
    let (uid, gid) = (uid.unwrap_or_else(getuid), gid.unwrap_or_else(getgid));
    empty_bounding_set(&[NET_BIND_SERVICE]); // while CAP_SETPCAP is there
    if (uid, gid) != (getuid(), getgid()) {
        prctl(libc::PR_SET_KEEPCAPS, 1).map_err(tried("keep capabilities over the change of user"))?;
        setgroups(&[]).map_err(|e| tried("leave all supplementary groups (needs CAP_SETGID)")(e.into()))?;
        setresgid(gid, gid, gid).map_err(|e| tried(&format!("become group {gid} (needs CAP_SETGID)"))(e.into()))?;
        setresuid(uid, uid, uid).map_err(|e| tried(&format!("become user {uid} (needs CAP_SETUID)"))(e.into()))?;
        prctl(libc::PR_SET_KEEPCAPS, 0).map_err(tried("end keeping capabilities"))?;
    }
    keep_only(&[NET_BIND_SERVICE]).map_err(tried("drop capabilities"))
}

/// The user's and group's numbers, from names or numbers; the user's own group where only he is given.
pub fn ids(user: Option<&str>, group: Option<&str>) -> io::Result<(Option<Uid>, Option<Gid>)> {
    let (uid, gid) = (user.map(find_user).transpose()?, group.map(find_group).transpose()?);
    Ok((uid.map(|(uid, _)| uid), gid.or(uid.and_then(|(_, own)| own))))
}

fn tried(what: &str) -> impl FnOnce(io::Error) -> io::Error {
    let what = what.to_owned();
    move |e| io::Error::new(e.kind(), format!("can't {what}: {e}"))
}

/// A number of a user or group; setresuid(2) takes the largest for "leave as it is", so that one is nobody's.
fn number(name: &str) -> io::Result<Option<u32>> {
    match name.parse() {
        Ok(u32::MAX) => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is nobody's number; write another"))),
        other => Ok(other.ok()),
    }
}

fn find_user(name: &str) -> io::Result<(Uid, Option<Gid>)> {
    if let Some(number) = number(name)? {
        let known = User::from_uid(Uid::from_raw(number)).ok().flatten();
        return Ok((Uid::from_raw(number), known.map(|u| u.gid)));
    }
    let known = User::from_name(name).map_err(|e| tried(&format!("look up user {name}"))(e.into()))?;
    let absent = || io::Error::new(io::ErrorKind::NotFound, format!("there is no user {name}; create it, or name another"));
    known.map(|u| (u.uid, Some(u.gid))).ok_or_else(absent)
}

fn find_group(name: &str) -> io::Result<Gid> {
    if let Some(number) = number(name)? {
        return Ok(Gid::from_raw(number));
    }
    let known = Group::from_name(name).map_err(|e| tried(&format!("look up group {name}"))(e.into()))?;
    let absent = || io::Error::new(io::ErrorKind::NotFound, format!("there is no group {name}; create it, or name another"));
    known.map(|g| g.gid).ok_or_else(absent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_but_for_the_one_that_changes_nothing() {
        let (uid, gid) = ids(Some("4294967294"), Some("7")).expect("numbers need no entry");
        assert_eq!((uid, gid), (Some(Uid::from_raw(u32::MAX - 1)), Some(Gid::from_raw(7))));
        for (user, group) in [(Some("4294967295"), None), (None, Some("4294967295"))] {
            let why = ids(user, group).expect_err("-1").to_string();
            assert!(why.starts_with("4294967295 is nobody's number"), "{why}");
        }
    }
}
