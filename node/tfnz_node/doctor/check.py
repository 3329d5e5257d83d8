"""All that the doctor looks at, in the order in which one would put it right."""

from __future__ import annotations

from collections.abc import Callable

from tfnz_node.config import NodeConfig
from tfnz_node.kernel.tools import ToolFailed

from . import cgroups, host, ids, kernel, network
from .findings import Finding, fail


def check_host(config: NodeConfig) -> list[Finding]:
    """Looks at this host with the eyes of a node that has this configuration. Changes nothing; takes a moment."""
    return [_run(name, check) for name, check in _checks(config).items()]


def _checks(config: NodeConfig) -> dict[str, Callable[[], Finding]]:
    data_dir = host.find_existing(config.data_dir)
    in_directory = config.storage == "directory"
    return {
        "privileges": host.check_privileges,
        "kernel": kernel.check_kernel,
        "namespaces": lambda: kernel.check_namespaces(config.id_count),
        "making namespaces": kernel.check_making_namespaces,
        "system calls": kernel.check_calls,
        "seccomp": kernel.check_seccomp,
        "cgroups": cgroups.check_cgroups,
        "swap": cgroups.check_swap,
        "tools": lambda: host.check_tools(config),
        "file systems": lambda: host.check_file_systems(config),
        "idmapped mounts": lambda: kernel.check_idmap(data_dir, config.id_base, needed=in_directory),
        "space": lambda: host.check_space(config),
        "id ranges": lambda: ids.check_ids(config),
        "open files": host.check_fds,
        "tfnz-init": lambda: host.check_init(config.init),
        **({} if config.network == "none" else _network_checks(config)),
    }


def _network_checks(config: NodeConfig) -> dict[str, Callable[[], Finding]]:
    return {
        "nftables": network.check_nftables,
        "ip forwarding": network.check_forwarding,
        "other firewalls": lambda: network.check_forward_chains(config),
    }


def _run(name: str, check: Callable[[], Finding]) -> Finding:
    # What cannot even be looked at is a finding too, and must not keep the others from being looked at.
    try:
        return check()
    except (OSError, ValueError, ToolFailed) as exc:
        return fail(name, f"cannot be looked at: {exc}", "see that /proc and /sys are mounted and readable")
