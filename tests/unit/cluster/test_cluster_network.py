"""Only the chains that Kubernetes made are taken out of the packet filter."""

from raising.network import restore_input

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
