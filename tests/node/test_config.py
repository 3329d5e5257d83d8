"""The configuration: what a file may say, and what is said about one that may not."""

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tfnz_node.config import ConfigError, NodeConfig, find_config, parse_config

EVERYTHING = """
data_dir = "/srv/20ft"
storage = "directory"
disk = "100G"
socket = "/run/x/node.sock"
socket_group = "staff"
listen = ["tcp://127.0.0.1:2020", "tcp://[::1]:2020"]
network = "10.9.0.0/16"
private_egress = ["10.1.0.0/16"]
resolvers = ["9.9.9.9"]
max_connections = 100
id_base = 2000000
id_count = 10
pool_size = 4
pool_max = 8
max_sessions = 3
session_silence_s = 60
disconnect_grace_s = 0.5
takeover_s = 30
init = "/opt/tfnz-init"

[limits]
memory = "1G"
cpus = 2
pids = 64
disk = 1073741824

[quota]
containers = 5
memory = "1.5G"
disk = "20G"
files = "1M"
sessions = 2
permissions = 7

[images]
archive = "1G"
unpacked = "2G"
files = 1000
layers = 3
"""


def parse(text: str) -> NodeConfig:
    return parse_config(text, source="node.toml")


def test_nothing_is_all_defaults() -> None:
    assert parse("") == NodeConfig()


def test_the_defaults_pass_their_own_checks() -> None:
    config = parse('listen = "tcp://*:2020"\ndata_dir = "/var/lib/20ft"')
    assert config == NodeConfig()
    assert config.limits.memory_bytes == 512 << 20
    assert config.limits.disk_bytes == 4 << 30
    assert (config.limits.cpus, config.limits.pids) == (1.0, 256)
    assert config.host_ids == range(1_065_536, 1_065_536 + 4096 * 65536)


def test_everything_can_be_set() -> None:
    config = parse(EVERYTHING)
    assert config.data_dir == Path("/srv/20ft")
    assert config.disk_bytes == 100 << 30
    assert config.listen == ("tcp://127.0.0.1:2020", "tcp://[::1]:2020")
    assert config.network == IPv4Network("10.9.0.0/16")
    assert config.max_connections == 100
    assert config.private_egress == (IPv4Network("10.1.0.0/16"),)
    assert config.session_silence_s == 60.0
    assert (config.limits.memory_bytes, config.limits.cpus, config.limits.disk_bytes) == (
        1 << 30,
        2.0,
        1 << 30,
    )
    assert config.quota.memory_bytes == 3 << 29
    assert config.quota.disk_bytes == 20 << 30
    assert (config.quota.files_bytes, config.quota.sessions, config.quota.permissions) == (1 << 20, 2, 7)
    assert (config.images.archive_bytes, config.images.layers) == (1 << 30, 3)


def test_every_setting_is_in_the_test_of_everything() -> None:
    config = parse(EVERYTHING)
    for part, defaults in ((config, NodeConfig()), (config.limits, NodeConfig().limits)):
        for name in part.__struct_fields__:
            assert getattr(part, name) != getattr(defaults, name), name


def test_no_address_to_listen_on_is_an_answer() -> None:
    assert parse("listen = []").listen == ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("pool_sise = 3", r"no setting 'pool_sise'; did you mean 'pool_size'\?"),
        ("[limits]\nzz = 3", r"no setting 'limits\.zz'; there are: limits\.cpus, limits\.disk, limits\.mem"),
        ("[limits]\nmemory_bytes = 3", r"no setting 'limits\.memory_bytes'; did you mean 'limits\.memory'"),
        ("zzz = 1", "no setting 'zzz'; there are: data_dir, disconnect_grace_s, disk,"),
        ("limits = 3", r"limits = 3 should be a section: write it as \[limits\]"),
        ("pool_size = -1", r"pool_size = -1: Expected `int` >= 0"),
        ('pool_size = "many"', r"pool_size = 'many': Expected `int`, got `str`"),
        ("pool_size = true", r"pool_size = True: Expected `int`, got `bool`"),
        ("[limits]\ncpus = 0", r"limits\.cpus = 0: Expected `float` >= 0\.01"),
        ("[limits]\ncpus = nan", r"limits\.cpus = nan: "),
        ('[limits]\nmemory = "1K"', r"limits\.memory = '1K': too little; the least that works is 4M"),
        ('[limits]\nmemory = "lots"', r"limits\.memory = 'lots': .*use a number of bytes"),
        ("[limits]\nmemory = 1.5", r"limits\.memory = 1\.5: .*no size"),
        ('storage = "zfs"', r"storage = 'zfs': Invalid enum value 'zfs'"),
        ('data_dir = "var/lib"', r"data_dir = 'var/lib': a path must be absolute"),
        ("data_dir = 3", r"data_dir = 3: expected text, got int"),
        ('network = "10.200.0.1/16"', r"network = '10\.200\.0\.1/16': .*host bits set"),
        ('network = "fe80::/64"', r"network = 'fe80::/64': "),
        ('network = "10.0.0.0/30"', "too small for containers: use a /29"),
        ('listen = "2020"', r"listen = '2020': '2020' is no address to listen on; write"),
        ('listen = ["ipc:///tmp/x"]', "no address to listen on"),
        ('listen = "tcp://*:65536"', "no address to listen on"),
        ("listen = [2020]", "expected text such as"),
        ("listen = 2020", "expected text such as"),
        ('socket_group = "no such:group"', "socket_group = 'no such:group': Expected"),
        ("id_base = 1000", r"id_base = 1000: Expected `int` >= 65536"),
        (
            "id_base = 4294000000\nid_count = 100",
            "leaves room for 13 ranges of 65536 ids .* lower one of them",
        ),
        ("id_base = 4294967294\nid_count = 1\npool_size = 0", "leaves room for 0 ranges"),
        ("pool_size = 10\nid_count = 9", "pool_size = 10 is more than id_count = 9"),
        ('disk = "1M"', "disk = '1M' is too little for a file system: use at least 256M"),
        ("= 3", "is not valid TOML: .*line 1"),
    ],
)
def test_what_cannot_be_used_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=rf"^node\.toml.*{complaint}"):
        parse(text)


def test_the_most_ranges_that_fit_do_fit() -> None:
    assert parse("id_base = 4294000000\nid_count = 13\npool_size = 0").host_ids.stop - 1 <= 2**32 - 2


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text("pool_size = 3")
    assert find_config(path).pool_size == 3


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no configuration file .*/absent\.toml"):
        find_config(tmp_path / "absent.toml")


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "node.toml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"cannot read the configuration file .*/node\.toml"):
        find_config(path)


def test_an_error_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text("pool_size = -3")
    with pytest.raises(ConfigError, match=rf"^{path}: pool_size = -3"):
        find_config(path)
