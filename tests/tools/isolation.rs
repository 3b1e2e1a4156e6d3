//! What a program in the sandbox can see, reach and leave of the machine it runs on: nothing.

use crate::sandbox::world;

#[tokio::test]
async fn nothing_of_the_machine_can_be_read_or_written() {
    let Some(world) = world(&[]).await else { return };
    let secret = world.dir.path().join("data/secret.txt");
    std::fs::write(&secret, "canary-file").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let code = format!(
        r#"
import os
def show(path):
    try:
        with open(path, "rb") as f: print("READ", path, len(f.read(100)))
    except OSError as e: pass
for path in ["/etc/shadow", "/etc/passwd", "/etc/hostname", "/root/.bashrc", {secret:?}, "/proc/1/environ",
             "/proc/1/root/etc/passwd", "/proc/self/root/etc/passwd", "/proc/kcore", "/dev/mem", "/dev/sda", "/dev/vda",
             "/sys/kernel/notes", "/var/run/docker.sock", "/proc/sys/kernel/core_pattern/../../../../etc/passwd",
             "/work/../etc/passwd", "/proc/self/cwd/../etc/passwd", "/run/secrets"]:
    show(path)
for path in ["/x", "/usr/x", "/dev/x", "/dev/shm/x", "/code/x", "/code/main.py", "/etc/x", "/proc/x", "/proc/sys/kernel/hostname",
             "/proc/sysrq-trigger", "/proc/self/oom_score_adj/x", "/bin/x", "/lib/x"]:
    try:
        open(path, "w").write("x"); print("WROTE", path)
    except OSError: pass
for make in ["symlink", "link"]:
    try:
        getattr(os, make)("/etc/passwd", "l" + make); show("l" + make)
    except OSError: pass
print(sorted(p for p in os.listdir("/proc") if p.isdigit()).__len__() < 6, os.getuid(), os.listdir("/work"))
"#
    );
    let output = world.python(&code).await.unwrap();
    let text = &output.text;
    // The first process may be asked for its environment, which is the shell's own `PWD`.
    let text = text.replace("READ /proc/1/environ 6\n", "").replace("READ /proc/1/environ 0\n", "");
    assert!(text.starts_with("True 65534 ['lsymlink']"), "{text}");
    assert!(!text.contains("READ") && !text.contains("WROTE"), "{text}");
    assert!(output.artifacts.is_empty(), "{:?}", output.artifacts);
}

#[tokio::test]
async fn no_variable_and_no_open_file_of_the_server_reaches_a_program() {
    // As a careless parent leaves it open to its children.
    let held = std::fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&held, rustix::io::FdFlags::empty()).unwrap();
    let Some(world) = world(&[("TAVILY_API_KEY", "tvly-canary-env")]).await else { return };
    let code = "import os\nprint(sorted(os.environ))\nfor fd in sorted(os.listdir('/proc/self/fd')):\n  try: print(fd, os.readlink('/proc/self/fd/' + fd))\n  except OSError: pass\nfor p in os.listdir('/proc'):\n  if p.isdigit():\n    try: print(open(f'/proc/{p}/environ').read(), open(f'/proc/{p}/cmdline').read())\n    except OSError: pass";
    let text = world.python(code).await.unwrap().text;
    assert!(text.starts_with("['HOME', 'LANG', 'PATH', 'PWD', 'TMPDIR']\n0 /dev/null\n1 pipe:"), "{text}");
    let fds: Vec<&str> =
        text.lines().skip(1).take_while(|line| line.starts_with(|c: char| c.is_ascii_digit())).collect();
    assert!(fds.len() <= 4, "{fds:?}");
    for leak in ["canary", "CARGO", "NEXTEST", "passwd"] {
        assert!(!text.contains(leak), "{leak} in {text}");
    }
}

#[tokio::test]
async fn there_is_no_network_and_no_socket_to_the_machine() {
    let Some(world) = world(&[]).await else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let code = format!(
        r#"
import socket
for address in [("127.0.0.1", {port}), ("10.0.0.1", 80), ("1.1.1.1", 53), ("169.254.169.254", 80)]:
    try: socket.create_connection(address, 1); print("CONNECTED", address)
    except OSError as e: pass
try: print("RESOLVED", socket.gethostbyname("example.com"))
except OSError: pass
for family in range(46):
    if family in (1, 2, 10): continue
    for kind in (1, 2, 3):
        try: socket.socket(family, kind); print("SOCKET", family, kind)
        except OSError: pass
try: socket.socket(2, 3, 1); print("RAW")
except OSError: pass
print(open("/proc/net/dev").read().count(":"))
"#
    );
    assert_eq!(world.python(&code).await.unwrap().text, "1");
    let code = format!(
        "require('net').connect({port}, '127.0.0.1').on('connect', () => console.log('CONNECTED')).on('error', e => console.log(e.code))"
    );
    assert_eq!(world.javascript(&code).await.unwrap().text, "ECONNREFUSED");
    assert!(listener.accept().is_err(), "somebody came");
}

#[tokio::test]
async fn rights_cannot_be_gained_and_the_kernel_is_asked_little() {
    let Some(world) = world(&[]).await else { return };
    let code = r#"
import ctypes, os, subprocess
libc = ctypes.CDLL(None, use_errno=True)
def refused(name, *arguments):
    if getattr(libc, name)(*arguments) != -1: print("MADE", name)
refused("ptrace", 16, 1, 0, 0)
refused("unshare", 0x10000000)
refused("unshare", 0x00020000)
refused("mount", b"none", b"/work", b"tmpfs", 0, None)
refused("setuid", 0)
refused("setgid", 0)
refused("setns", 3, 0)
refused("chroot", b"/work")
refused("personality", 0x0040000)
for number in [321, 323, 425, 298, 250, 101, 310, 0x40000000 + 39, 0x40000000 + 101]:
    if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1: print("MADE", number)
try: os.kill(1, 9)
except OSError: pass
for program in ["su", "sudo", "mount", "passwd", "newgrp"]:
    path = "/usr/bin/" + program
    if os.path.exists(path):
        done = subprocess.run([path, "-c", "id"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=3)
        if "uid=0" in done.stdout: print("ROOT", program)
status = open("/proc/self/status").read()
print([line for line in status.splitlines() if line.startswith(("CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp:"))])
"#;
    let text = world.python(code).await.unwrap().text;
    let zeros = "0000000000000000";
    let expected =
        format!("['CapPrm:\\t{zeros}', 'CapEff:\\t{zeros}', 'CapBnd:\\t{zeros}', 'NoNewPrivs:\\t1', 'Seccomp:\\t2']");
    assert_eq!(text, expected);
}

#[tokio::test]
async fn tricks_with_what_is_left_give_no_file_of_the_machine() {
    let Some(world) = world(&[]).await else { return };
    let code = r#"
import os, socket
os.symlink("/etc/passwd", "a.txt")
os.symlink("../../../../../../etc/shadow", "b.txt")
os.symlink("/", "root")
os.symlink("a", "b"); os.symlink("b", "a")
os.mkfifo("pipe")
socket.socket(socket.AF_UNIX).bind("socket")
os.mkdir("closed"); open("closed/x", "w").write("x"); os.chmod("closed", 0)
open("set", "w").write("x"); os.chmod("set", 0o6777)
open("..hidden", "w").write("h")
open("-rf", "w").write("d")
open("new\nline\x1b[31m", "w").write("n")
os.mkdir("../work/deep"); open("deep/ok.txt", "w").write("ok")
"#;
    let output = world.python(code).await;
    // Where this is root a closed directory is open to it; elsewhere it counts as one that cannot be read.
    let Ok(output) = output else {
        assert_eq!(&*output.expect_err("a limit").code, "sandbox_limit");
        return;
    };
    let names: Vec<&str> = output.artifacts.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["-rf", "hidden", "closed_x", "deep_ok.txt", "new_line__31m", "set"]);
    assert_eq!(output.data["passed_over"], 7);
    assert!(output.artifacts.iter().all(|file| file.bytes <= 2), "{:?}", output.artifacts);
    world.clean().await;
}
