//! The command line that makes the sandbox.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::Program;
use super::scratch::{Base, NOBODY, Scratch};
use crate::settings::SandboxSettings;

/// Open files of one process.
const FILES_OPEN_MAX: u32 = 64;

/// What starts `program`, without an environment. Where this process is root, it is another user before anything else
/// happens: limits on processes do not hold for root.
pub(super) fn command(
    settings: &SandboxSettings,
    base: &Base,
    filter: &Path,
    scratch: &Scratch,
    program: Program<'_>,
) -> Command {
    let mut command = Command::new("/bin/sh");
    // bubblewrap takes the filter from an open file.
    command.args(["-c", "exec 9<\"$0\" && exec \"$@\""]).arg(filter).arg(&settings.bwrap);
    command.args(["--seccomp", "9"]);
    // Nothing of the others' world: users, processes, network, IPC, host name, control groups. No second try.
    command.args(["--unshare-all", "--unshare-user", "--disable-userns"]);
    command.args(["--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]);
    let nobody = NOBODY.to_string();
    command.args(["--uid", &nobody, "--gid", &nobody, "--hostname", "sandbox"]);
    command.args(["--ro-bind", "/usr", "/usr"]);
    for name in ["bin", "sbin", "lib", "lib64"] {
        command.args(["--symlink", &format!("usr/{name}"), &format!("/{name}")]);
    }
    for file in ["/etc/alternatives", "/etc/ld.so.cache"] {
        command.args(["--ro-bind-try", file, file]);
    }
    command.args(["--proc", "/proc", "--dev", "/dev", "--symlink", "/work", "/tmp"]);
    command.args([OsStr::new("--ro-bind"), scratch.code().as_os_str(), OsStr::new("/code")]);
    command.args([OsStr::new("--bind"), scratch.work().as_os_str(), OsStr::new("/work")]);
    // What is left writable of the sandbox's own file system would be memory without a bound.
    command.args(["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/work"]);
    for (name, value) in [("HOME", "/work"), ("PATH", "/usr/bin"), ("LANG", "C.UTF-8"), ("TMPDIR", "/work")] {
        command.args(["--setenv", name, value]);
    }
    let (cpu, memory) = (settings.cpu_s.get(), settings.memory_bytes_max.get());
    // Two processes are bubblewrap's own. The soft limit on time gives a signal that tells why.
    command.arg("/usr/bin/prlimit").args([
        format!("--cpu={cpu}:{}", cpu + 1),
        format!("--data={memory}"),
        format!("--nproc={}", settings.processes_max.get() + 2),
        format!("--fsize={}", settings.files_bytes_max),
        format!("--nofile={FILES_OPEN_MAX}"),
        "--core=0".to_owned(),
    ]);
    command.args(["/usr/bin/nice", "-n", "10"]).arg(program.interpreter).args(program.flags);
    command.arg(OsString::from(format!("/code/{}", program.file)));
    command.env_clear().stdin(Stdio::null()).current_dir("/");
    if let Some(id) = base.identity {
        command.uid(id).gid(id);
    }
    command
}
