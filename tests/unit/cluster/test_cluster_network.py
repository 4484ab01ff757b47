"""Only what Kubernetes did to this machine's network and settings is taken back, and all of it."""

import pytest
from raising import network
from raising.network import restore_input
from raising.shell import ClusterError

TABLES = {
    "nat": [
        ":PREROUTING ACCEPT [0:0]",
        ":KUBE-SERVICES - [0:0]",
        ":KUBE-SVC-ABC - [0:0]",
        ":DOCKER - [0:0]",
        "-A PREROUTING -m addrtype -j DOCKER",
        '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        "-A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-ABC",
    ],
    "filter": [":INPUT ACCEPT [0:0]", "-A INPUT -j ACCEPT"],
}


def test_our_chains_and_the_rules_that_lead_to_them_go():
    assert restore_input(TABLES).splitlines() == [
        "*nat",
        ":KUBE-SERVICES - [0:0]",
        ":KUBE-SVC-ABC - [0:0]",
        '-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        "-X KUBE-SERVICES",
        "-X KUBE-SVC-ABC",
        "COMMIT",
    ]


def test_without_our_chains_nothing_is_written():
    assert restore_input({"filter": TABLES["filter"]}) == ""


SAVED = "*nat\n:OUTPUT ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n-A OUTPUT -j KUBE-SERVICES\nCOMMIT\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine that answers `<program>-save` and writes down what else it is told."""
    told: list[tuple[str, str | None]] = []

    def run(command, *, stdin=None, **_):
        cleared = command[0].replace("-save", "-restore") in dict(told)
        told.append((command[0], stdin))
        return SAVED if command[0].endswith("-save") and not cleared else ""

    monkeypatch.setattr(network, "run", run)
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/sbin/{program}")
    monkeypatch.setattr(network, "bridge_exists", lambda: True)
    monkeypatch.setattr(network, "_FORMER_SYSCTLS", tmp_path / "former")
    monkeypatch.setattr(network, "_sysctl", lambda name: tmp_path / name.replace("/", "-"))
    return told


def test_both_families_filters_are_cleared(machine, tmp_path):
    (tmp_path / "former").write_text("{}")
    assert network.foreign_chains() == ["iptables/nat/KUBE-SERVICES", "ip6tables/nat/KUBE-SERVICES"]
    network.remove()
    cleared = {program: stdin for program, stdin in machine if program.endswith("-restore")}
    assert cleared.keys() == {"iptables-restore", "ip6tables-restore"}
    assert all("-D OUTPUT -j KUBE-SERVICES\n-X KUBE-SERVICES\n" in script for script in cleared.values())


def test_what_kubelet_and_proxy_set_for_the_machine_is_set_back(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(network, "foreign_chains", list)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: None)
    settings = {"net-ipv4-ip_forward": "0", "kernel-panic": "1", "vm-overcommit_memory": "0"}
    for name, value in settings.items():
        (tmp_path / name).write_text(f"{value}\n")
    network.prepare()
    assert (tmp_path / "net-ipv4-ip_forward").read_text() == "1"
    (tmp_path / "kernel-panic").write_text("10")  # as a kubelet does
    (tmp_path / "vm-overcommit_memory").write_text("1")
    network.prepare()  # a second `up` must not take these for the machine's own
    network.remove()
    assert {name: (tmp_path / name).read_text().strip() for name in settings} == settings


def test_another_clusters_chains_are_no_leftovers_of_ours(machine, tmp_path):
    assert network.foreign_chains() != []
    assert network.our_chains() == []
    network.remove()
    assert not [program for program, _ in machine if program.endswith("-restore")]
    (tmp_path / "former").write_text("{}")
    assert network.our_chains() == network.foreign_chains()


def test_chains_that_stay_are_told(machine, tmp_path, monkeypatch):
    (tmp_path / "former").write_text("{}")
    monkeypatch.setattr(network, "restore_input", lambda _: "")
    with pytest.raises(ClusterError, match="ip6tables/nat/KUBE-SERVICES"):
        network.remove()
