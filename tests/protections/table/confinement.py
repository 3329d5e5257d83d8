"""Against what a container tries to get out, by the ways that others have had and by new ones."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.protections.removal import Edit, Input, Removal, taken_away

INIT: Final = "node/init"
ESCAPES: Final = "tests/node/init/test_escapes.py"
CONFINEMENT: Final = "tests/node/init/test_confinement.py"
SECCOMP: Final = "node/tfnz_node/sandbox/seccomp.py"
FILTER: Final = "tests/node/sandbox/test_seccomp.py"

# Not here, for each is behind others that are enough:
#   that process 1 says that it is not dumpable: the kernel does, when it becomes another user, and lets nobody look
#   into a process that has more capabilities than oneself;
#   namespaces other than that of cgroups: without its own a container does not begin at all.

_confinement = partial(taken_away, input=Input.CONFINEMENT)

REMOVALS: Final[tuple[Removal, ...]] = (
    Removal(
        "descriptors-left-open",
        Input.CONFINEMENT,
        "A directory of the host that the daemon has left open does not come into the container.",
        (
            Edit(
                f"{INIT}/main.c",
                "\tclose_range(join ? NETNS_FD + 1 : CONTROL_FD + 1, ~0u, 0);\n",
                "\t(void)join;\n",
            ),
            Edit(f"{INIT}/child.c", "\tif (close_range(STATUS_FD + 1, ~0u, 0) < 0)", "\tif (0)"),
        ),
        (f"{ESCAPES}::test_descriptors_that_were_left_open_do_not_come_in",),
    ),
    _confinement(
        "descriptors-of-init",
        stops="Init itself holds nothing that its daemon has left open.",
        file=f"{INIT}/main.c",
        old="\tclose_range(join ? NETNS_FD + 1 : CONTROL_FD + 1, ~0u, 0);\n",
        new="\t(void)join;\n",
        tests=(f"{CONFINEMENT}::test_init_itself_keeps_only_what_it_needs",),
    ),
    _confinement(
        "descriptors-of-children",
        stops="What is init's, such as its socket to the daemon, is not its children's.",
        file=f"{INIT}/child.c",
        old="\tif (close_range(STATUS_FD + 1, ~0u, 0) < 0)",
        new="\tif (0)",
        tests=(f"{ESCAPES}::test_descriptors_that_were_left_open_do_not_come_in",),
    ),
    _confinement(
        "magic-links",
        stops="A working directory or a file that is named by a descriptor of init leads nowhere.",
        file=f"{INIT}/resolve.c",
        old="RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS",
        new="0",
        tests=(
            f"{ESCAPES}::test_no_descriptor_becomes_the_working_directory",
            f"{ESCAPES}::test_the_file_of_init_is_out_of_reach",
        ),
    ),
    _confinement(
        "workers-not-dumpable",
        stops="Nobody inside looks into what init forks for work on files.",
        file=f"{INIT}/child.c",
        old="\tprctl(PR_SET_DUMPABLE, 0, 0, 0, 0);\n",
        new="",
        tests=(f"{ESCAPES}::test_the_file_of_init_is_out_of_reach",),
    ),
    _confinement(
        "mounts-through-links",
        stops="Mount points that become links meanwhile do not lead a mount elsewhere.",
        file=f"{INIT}/sandbox.c",
        old="O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);\n\t\tif (fd >= 0)",
        new="O_PATH | O_DIRECTORY | O_CLOEXEC);\n\t\tif (fd >= 0)",
        tests=(
            f"{ESCAPES}::test_mounts_do_not_follow_links_that_change_meanwhile",
            f"{CONFINEMENT}::test_mount_points_of_a_hostile_image_are_made_anew",
        ),
    ),
    _confinement(
        "masked-files",
        stops="What the kernel tells of the host in /proc is masked.",
        file=f"{INIT}/masks.c",
        old='\tif (mount("/dev/null", path, NULL, MS_BIND, NULL) < 0)',
        new="\tif (0)",
        tests=(
            f"{CONFINEMENT}::test_masked_files_of_proc_are_empty",
            f"{ESCAPES}::test_masks_are_not_the_image_s_to_choose",
        ),
    ),
    _confinement(
        "masked-directories",
        stops="What the kernel tells of the host's devices in /sys is masked.",
        file=f"{INIT}/masks.c",
        old="\t\treturn bind_read_only(empty_dir, path, error);",
        new="\t\treturn (void)empty_dir, 0;",
        tests=(f"{CONFINEMENT}::test_masked_directories_are_empty",),
    ),
    _confinement(
        "settings-read-only",
        stops="Settings of the host's kernel cannot be written, its core_pattern among them.",
        file=f"{INIT}/masks.c",
        old="MS_REMOUNT | MS_BIND | MS_RDONLY | guard",
        new="MS_REMOUNT | MS_BIND | guard",
        tests=(f"{CONFINEMENT}::test_settings_are_read_only",),
    ),
    _confinement(
        "sysfs-read-only",
        stops="Nothing of the host's devices can be set by way of /sys.",
        file=f"{INIT}/sandbox.c",
        old='make_mount("sysfs", STAGING "/sys", guard | MS_RDONLY, NULL, error)',
        new='make_mount("sysfs", STAGING "/sys", guard, NULL, error)',
        tests=(
            f"{CONFINEMENT}::test_settings_are_read_only",
            f"{CONFINEMENT}::test_the_host_is_nowhere_in_the_mounts",
        ),
    ),
    _confinement(
        "root-without-devices",
        stops="Device nodes and set-id programs of an image are dead.",
        file=f"{INIT}/sandbox.c",
        old='\tif (mount_setattr(root_mount, "", AT_EMPTY_PATH, &attributes, sizeof attributes) < 0)',
        new="\tif ((void)attributes, 0)",
        tests=(f"{CONFINEMENT}::test_the_host_is_nowhere_in_the_mounts",),
    ),
    _confinement(
        "host-mounts-detached",
        stops="The host's file systems are not there any more when the container runs.",
        file=f"{INIT}/sandbox.c",
        old='\tif (umount2(".", MNT_DETACH) < 0)',
        new="\tif (0)",
        tests=(
            f"{CONFINEMENT}::test_the_host_is_nowhere_in_the_mounts",
            "tests/system/test_confinement.py::test_no_mount_is_the_host_s",
        ),
    ),
    _confinement(
        "capabilities-effective",
        stops="Root inside has ten capabilities and no others.",
        file=f"{INIT}/caps.c",
        old="BIT(CAP_SYS_CHROOT) | BIT(CAP_KILL);",
        new="BIT(CAP_SYS_CHROOT) | BIT(CAP_KILL) | BIT(CAP_SYS_ADMIN) | BIT(CAP_NET_RAW);",
        tests=(f"{CONFINEMENT}::test_root_keeps_exactly_the_allowed_capabilities",),
    ),
    _confinement(
        "capabilities-bounding",
        stops="No further capability can be acquired by executing a file.",
        file=f"{INIT}/caps.c",
        old="\tif (drop_bounding() < 0)\n\t\treturn -1;\n",
        new="\t(void)drop_bounding;\n",
        tests=(f"{CONFINEMENT}::test_root_keeps_exactly_the_allowed_capabilities",),
    ),
    _confinement(
        "no-new-privileges",
        stops="Set-id programs and capabilities of files give nobody rights.",
        file=f"{INIT}/child.c",
        old="\tif (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)",
        new="\tif (0)",
        tests=(f"{CONFINEMENT}::test_no_new_privileges_and_the_filter_are_set",),
    ),
    _confinement(
        "seccomp-installed",
        stops="System calls that are not allowed are refused.",
        file=f"{INIT}/child.c",
        old="\tif (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter, 0, 0) < 0)",
        new="\tif ((void)filter, 0)",
        tests=(
            f"{CONFINEMENT}::test_no_new_privileges_and_the_filter_are_set",
            f"{ESCAPES}::test_no_release_agent_can_be_set",
        ),
    ),
    _confinement(
        "user-namespace-owner",
        stops="What the kernel gives each user only so many of is not shared with the host's root.",
        file=f"{INIT}/sandbox.c",
        old="setresuid((uid_t)-1, id_base, (uid_t)-1) < 0)",
        new="0)",
        tests=(f"{CONFINEMENT}::test_its_user_namespace_belongs_to_its_own_root",),
    ),
    _confinement(
        "ids-of-its-own",
        stops="Root inside is nobody's id on the host, and no other container's.",
        file="node/tfnz_node/sandbox/launch.py",
        old='path.write_text(f"0 {id_base} {IDS_PER_SANDBOX}\\n")',
        new='path.write_text(f"0 0 {IDS_PER_SANDBOX}\\n")',
        tests=(f"{ESCAPES}::test_the_file_of_init_is_out_of_reach",),
    ),
    _confinement(
        "cgroup-namespace",
        stops="The cgroup's path on the host is not shown.",
        file=f"{INIT}/sandbox.c",
        old="CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWPID;",
        new="CLONE_NEWNS | CLONE_NEWPID;",
        tests=(f"{CONFINEMENT}::test_every_namespace_is_its_own",),
    ),
    _confinement(
        "devices-few",
        stops="No device of the host is there but the harmless ones.",
        file=f"{INIT}/devices.c",
        old='"urandom", "tty"};',
        new='"urandom", "tty", "kmsg"};',
        tests=(f"{CONFINEMENT}::test_devices_work_and_are_few",),
    ),
    _confinement(
        "core-dumps",
        stops="No core dump starts the host's program for them.",
        file=f"{INIT}/rlimits.c",
        old="\t{RLIMIT_CORE, 0, 0},\n",
        new="",
        tests=(f"{CONFINEMENT}::test_resource_limits_are_the_containers_own",),
    ),
    _confinement(
        "oom-protection",
        stops="A container does not keep the daemon's protection from the kernel's choice of whom to kill.",
        file=f"{INIT}/main.c",
        old="\tgive_up_protection();\n",
        new="\t(void)give_up_protection;\n",
        tests=(f"{CONFINEMENT}::test_the_daemons_own_protection_ends_before_a_container_begins",),
    ),
    _confinement(
        "seccomp-refused",
        stops="Mounts, namespaces, programs in the kernel and its keys are refused.",
        file=SECCOMP,
        old="    for name in policy.names(policy.ALLOWED):",
        new='    for name in [*policy.names(policy.ALLOWED), "mount", "unshare", "bpf", "keyctl"]:',
        tests=(f"{FILTER}::test_refused_by_the_filter_and_by_nothing_else",),
    ),
    _confinement(
        "seccomp-32-bit",
        stops="System calls of 32-bit programs are no second set of ways into the kernel.",
        file=SECCOMP,
        old="library.Attr.ACT_BADARCH, library.ERRNO(errno.EPERM)",
        new="library.Attr.ACT_BADARCH, library.ALLOW",
        tests=(f"{FILTER}::test_refused_by_the_filter_and_by_nothing_else",),
    ),
    _confinement(
        "seccomp-namespaces",
        stops="No process is made in new namespaces, where it would have every capability.",
        file=SECCOMP,
        old='compiled.add_rule(allow, "clone", equals(0, 0, NAMESPACE_FLAGS))',
        new='compiled.add_rule(allow, "clone")',
        tests=(f"{FILTER}::test_refused_by_the_filter_and_by_nothing_else",),
    ),
    _confinement(
        "seccomp-sockets",
        stops="No module of the kernel is loaded for a family of sockets that hardly anybody needs.",
        file=SECCOMP,
        old="    for family in (AF_UNIX, AF_INET, AF_INET6):",
        new="    for family in (AF_UNIX, AF_INET, AF_INET6, 17, 38, 40):",
        tests=(f"{FILTER}::test_refused_by_the_filter_and_by_nothing_else",),
    ),
    _confinement(
        "seccomp-terminals",
        stops="No word is typed for whoever looks at a container's terminal.",
        file=SECCOMP,
        old="REFUSED_IOCTLS = (TIOCSTI, TIOCLINUX, TIOCSETD)",
        new="REFUSED_IOCTLS = (TIOCLINUX, TIOCSETD)",
        tests=(f"{FILTER}::test_refused_by_the_filter_and_by_nothing_else",),
    ),
    _confinement(
        "seccomp-high-bits",
        stops="A forbidden value does not pass because of a bit that the kernel does not look at.",
        file=SECCOMP,
        old='        compiled.add_rule(allow, "ioctl", equals(1, value, mask))',
        new='        compiled.add_rule(allow, "ioctl", library.Arg(1, library.NE, TIOCSTI))',
        tests=(f"{FILTER}::test_refused_by_the_filter_and_by_nothing_else",),
    ),
)
