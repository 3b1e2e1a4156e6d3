//! Which system calls a program in the sandbox may not make.
//!
//! Namespaces hide the world, this narrows the way to the kernel: what only programs that break out of things ask for is
//! answered with EPERM. Sockets other than those of the sandbox's own network are refused, too; a virtual machine's
//! `AF_VSOCK`, for one, belongs to no namespace. Anonymous files and shared segments would be memory that no process shows.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

/// Never needed by a script.
const REFUSED: [i64; 48] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_msgget,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_semget,
    libc::SYS_setns,
    libc::SYS_shmget,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// The filter as bubblewrap takes it: the kernel's `struct sock_filter`, one after the other.
///
/// # Errors
/// This processor is not known.
pub(super) fn filter() -> Result<Vec<u8>, BackendError> {
    let other_family = |family: i32| {
        let family = u64::try_from(family).unwrap_or_default();
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family)
    };
    let families = vec![other_family(libc::AF_UNIX)?, other_family(libc::AF_INET)?, other_family(libc::AF_INET6)?];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(families)?]);
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let refuse = SeccompAction::Errno(u32::try_from(libc::EPERM).unwrap_or(1));
    let program: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()?;
    let mut bytes = Vec::new();
    for instruction in twins(arch).iter().chain(&program) {
        let sock_filter { code, jt, jf, k } = instruction;
        bytes.extend_from_slice(&code.to_ne_bytes());
        bytes.extend_from_slice(&[*jt, *jf]);
        bytes.extend_from_slice(&k.to_ne_bytes());
    }
    Ok(bytes)
}

/// On x86-64 each call has a twin with a number above 2^30 (x32), which a list of numbers would miss: refused, all of them.
fn twins(arch: TargetArch) -> Vec<sock_filter> {
    match arch {
        TargetArch::x86_64 => {
            let errno = 0x0005_0000 | u32::try_from(libc::EPERM).unwrap_or(1);
            vec![
                // Load the number; if it is not below 2^30, refuse.
                sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 },
                sock_filter { code: 0x35, jt: 0, jf: 1, k: 0x4000_0000 },
                sock_filter { code: 0x06, jt: 0, jf: 0, k: errno },
            ]
        }
        TargetArch::aarch64 | TargetArch::riscv64 => Vec::new(),
    }
}
