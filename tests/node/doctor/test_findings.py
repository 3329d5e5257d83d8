"""How findings are shown."""

from tfnz_node.doctor.findings import fail, is_fit, ok, render_findings, warn

GOOD = ok("kernel", "6.1.0")
ODD = warn("swap", "is not counted", "switch it off")
BAD = fail("tools", "not found: btrfs", "apt-get install btrfs-progs")


def test_every_finding_is_a_line_with_its_remedy_beneath() -> None:
    assert render_findings([GOOD, ODD, BAD]).splitlines() == [
        "ok    kernel  6.1.0",
        "warn  swap    is not counted",
        "              -> switch it off",
        "FAIL  tools   not found: btrfs",
        "              -> apt-get install btrfs-progs",
        "This host cannot run containers yet: 1 to put right, 1 to look at.",
    ]


def test_long_findings_are_wrapped_and_commands_stay_whole() -> None:
    long = warn("swap", "word " * 30, "sysctl -w " + "user.max_net_namespaces=1234 " * 4)
    lines = render_findings([long], width=60).splitlines()
    assert max(map(len, lines)) <= 60 + 8
    assert not any(line.rstrip().endswith("=") for line in lines)


def test_the_last_line_sums_up() -> None:
    assert render_findings([GOOD, ODD]).endswith("This host can run containers; 1 to look at.")
    assert render_findings([GOOD]).endswith("This host can run containers.")
    assert render_findings([]) == "This host can run containers."


def test_a_host_is_fit_unless_something_failed() -> None:
    assert is_fit([GOOD, ODD])
    assert not is_fit([GOOD, BAD])
