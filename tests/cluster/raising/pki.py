"""The cluster's certificate authority, certificates and kubeconfigs, made with openssl in a second or two."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

from raising.settings import API_SERVICE_IP, API_URL, GATEWAY, KUBECONFIG, NODES, PKI
from raising.shell import run, step, write_atomically

_DAYS = "3650"
_ADMIN = "/O=system:masters/CN=instructbooth-admin"
_SERVER_NAMES = (
    "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,"
    f"DNS:localhost,IP:127.0.0.1,IP:{GATEWAY},IP:{API_SERVICE_IP}"
)

#: Who talks to the API server, by the name of its certificate and kubeconfig.
CLIENTS = {
    "admin": _ADMIN,
    "controller-manager": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "proxy": "/CN=system:kube-proxy",
    "coredns": "/CN=instructbooth-coredns",
    "kwok": "/O=system:masters/CN=kwok",
    "kubelet-client": "/O=system:masters/CN=kube-apiserver-kubelet-client",
    **{node.name: f"/O=system:nodes/CN=system:node:{node.name}" for node in NODES},
}


def _key(path: Path) -> None:
    run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path])


def _sign(directory: Path, name: str, subject: str, extensions: str) -> None:
    _key(directory / f"{name}.key")
    request = run(["openssl", "req", "-new", "-key", directory / f"{name}.key", "-subj", subject])
    extension_file = directory / f"{name}.ext"
    extension_file.write_text(extensions)
    authority = ["-CA", f"{directory}/ca.crt", "-CAkey", f"{directory}/ca.key", "-CAcreateserial"]
    output = ["-extfile", str(extension_file), "-out", f"{directory}/{name}.crt"]
    run(["openssl", "x509", "-req", "-days", _DAYS, *authority, *output], stdin=request)
    extension_file.unlink()


def kubeconfig(name: str) -> Path:
    """The path of a client's kubeconfig."""
    return PKI / f"{name}.kubeconfig"


def _kubeconfig(directory: Path, name: str) -> str:
    def data(file: str) -> str:
        return base64.b64encode((directory / file).read_bytes()).decode()

    # JSON is YAML: what reads a kubeconfig reads this.
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "instructbooth",
        "clusters": [
            {"name": "instructbooth", "cluster": {"server": API_URL, "certificate-authority-data": data("ca.crt")}}
        ],
        "users": [
            {
                "name": name,
                "user": {
                    "client-certificate-data": data(f"{name}.crt"),
                    "client-key-data": data(f"{name}.key"),
                },
            }
        ],
        "contexts": [{"name": "instructbooth", "context": {"cluster": "instructbooth", "user": name}}],
    }
    return json.dumps(content, indent=1) + "\n"


def make() -> None:
    """Make all keys, certificates and kubeconfigs unless they are there; a kill leaves all of them or none."""
    if not PKI.exists():
        with step("certificates"):
            directory = PKI.with_name("pki.making")
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True, mode=0o700)
            _key(directory / "ca.key")
            authority = ["-subj", "/CN=instructbooth-ca", "-days", _DAYS, "-out", f"{directory}/ca.crt"]
            run(["openssl", "req", "-x509", "-new", "-key", directory / "ca.key", *authority])
            _key(directory / "service-account.key")
            _sign(
                directory,
                "apiserver",
                "/CN=kube-apiserver",
                f"subjectAltName={_SERVER_NAMES}\nextendedKeyUsage=serverAuth\n",
            )
            for name, identity in CLIENTS.items():
                _sign(directory, name, identity, "extendedKeyUsage=clientAuth\n")
                write_atomically(directory / f"{name}.kubeconfig", _kubeconfig(directory, name), mode=0o600)
            directory.replace(PKI)
    write_atomically(KUBECONFIG, kubeconfig("admin").read_text(), mode=0o600)
