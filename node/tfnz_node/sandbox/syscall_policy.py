"""Which system calls a container may use, grouped by what they are for.

A process that is refused a call gets EPERM, or ENOSYS where libc and others then fall back on an older call: clone3,
whose flags lie in memory where a filter cannot read them, and calls that are new, or newer than this list.

The measure is Docker's default profile, as Debian 12 has it: what that refuses is refused here, and a test compares. We
are stricter where nothing in a container of ours can need the call: no new namespaces of any kind, no NUMA placement,
no fanotify, no io_uring, no keyrings, no modify_ldt, and nothing of 32-bit programs.
"""

from __future__ import annotations

from collections.abc import Mapping

ALLOWED: Mapping[str, str] = {
    "files, by descriptor": """
        read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range
        dup dup2 dup3 fcntl flock fsync fdatasync syncfs sync sync_file_range ftruncate fallocate fadvise64 readahead
        fstat fstatfs fchmod fchown fchdir getdents getdents64 sendfile splice tee vmsplice copy_file_range
        fgetxattr fsetxattr flistxattr fremovexattr
    """,
    "files, by path": """
        open openat openat2 creat stat lstat newfstatat statx statfs access faccessat faccessat2 readlink readlinkat
        truncate chmod fchmodat chown lchown fchownat rename renameat renameat2 link linkat unlink unlinkat
        symlink symlinkat mkdir mkdirat rmdir mknod mknodat utime utimes utimensat futimesat umask getcwd chdir chroot
        getxattr lgetxattr setxattr lsetxattr listxattr llistxattr removexattr lremovexattr
        inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
        landlock_create_ruleset landlock_add_rule landlock_restrict_self
    """,
    "waiting": """
        poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old
        epoll_pwait epoll_pwait2 eventfd eventfd2 signalfd signalfd4 pipe pipe2
        io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents
    """,
    "memory": """
        brk mmap munmap mprotect mremap msync mincore madvise mlock mlock2 munlock mlockall munlockall
        remap_file_pages memfd_create memfd_secret membarrier process_mrelease
        shmget shmat shmctl shmdt
    """,
    "processes and threads": """
        fork vfork execve execveat exit exit_group wait4 waitid set_tid_address gettid getpid getppid
        getpgrp getpgid setpgid getsid setsid kill tkill tgkill pidfd_open pidfd_send_signal prctl arch_prctl
        set_thread_area get_thread_area rseq set_robust_list get_robust_list
        futex futex_waitv
        sched_yield sched_getparam sched_setparam sched_getscheduler sched_setscheduler sched_getattr sched_setattr
        sched_get_priority_max sched_get_priority_min sched_rr_get_interval sched_getaffinity sched_setaffinity
        getpriority setpriority ioprio_get ioprio_set getrusage getrlimit setrlimit prlimit64 getcpu
        seccomp restart_syscall
    """,
    "debugging one's own processes, which the kernel checks": "ptrace",
    "signals": """
        rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_tgsigqueueinfo
        rt_sigsuspend sigaltstack pause
    """,
    "identity, within the container's ids and capabilities": """
        getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid setresuid
        setresgid setgroups setfsuid setfsgid capget capset
    """,
    "time": """
        time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep times alarm getitimer setitimer
        timer_create timer_settime timer_gettime timer_getoverrun timer_delete
        timerfd_create timerfd_settime timerfd_gettime adjtimex clock_adjtime
    """,
    "sockets, once there is one": """
        bind connect listen accept accept4 shutdown getsockname getpeername getsockopt setsockopt
        sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg
    """,
    "messages between processes": """
        semget semop semtimedop semctl msgget msgsnd msgrcv msgctl
        mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
    """,
    "about the system": "uname sysinfo getrandom",
}

# Allowed with some arguments only; seccomp.py says which.
CONDITIONAL: Mapping[str, str] = {
    "clone": "no new namespaces",
    "socket": "families unix, inet, inet6 and a part of netlink",
    "socketpair": "family unix",
    "ioctl": "nothing that types into a terminal or changes its line discipline",
    "personality": "the execution domains that ordinary programs ask for",
}

REFUSED: Mapping[str, str] = {
    "mounts and roots": """
        mount umount2 pivot_root open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick mount_setattr
        quotactl quotactl_fd swapon swapoff
    """,
    "namespaces, new and of others": "unshare setns",
    "the kernel itself": """
        init_module finit_module delete_module create_module query_module get_kernel_syms kexec_load kexec_file_load
        reboot bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register
        iopl ioperm modify_ldt syslog acct lookup_dcookie
    """,
    "the host's name, clock and terminals": "sethostname setdomainname settimeofday clock_settime vhangup",
    "keyrings, which no namespace separates": "add_key request_key keyctl",
    "files by handle, which pass by every mount": "name_to_handle_at open_by_handle_at",
    "events of whole file systems": "fanotify_init fanotify_mark",
    "memory and descriptors of others": """
        process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd
    """,
    "memory placement": """
        mbind set_mempolicy get_mempolicy set_mempolicy_home_node migrate_pages move_pages
    """,
    "gone, or never there": """
        uselib ustat sysfs _sysctl nfsservctl getpmsg putpmsg afs_syscall tuxcall security vserver
    """,
}

UNKNOWN: Mapping[str, str] = {
    "flags in memory": "clone3",
    "which not every processor has": "pkey_alloc pkey_free pkey_mprotect",
    "newer than the oldest kernel that we run on, so that nothing can need them": """
        cachestat fchmodat2 map_shadow_stack futex_wake futex_wait futex_requeue mseal
        setxattrat getxattrat listxattrat removexattrat
    """,
    "new, and of no use in a container yet": """
        statmount listmount lsm_get_self_attr lsm_set_self_attr lsm_list_modules file_getattr file_setattr
    """,
}

# x86-64 numbers of calls that a host's libseccomp may be too old to know by name.
NUMBERS: Mapping[str, int] = {
    "memfd_secret": 447,
    "process_mrelease": 448,
    "futex_waitv": 449,
    "set_mempolicy_home_node": 450,
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
}
NEWEST = max(NUMBERS.values())


def names(groups: Mapping[str, str]) -> list[str]:
    """All names of a table."""
    return [name for group in groups.values() for name in group.split()]
