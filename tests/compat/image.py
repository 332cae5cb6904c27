"""A vendor of updates: its key, its images, and the program that installs them."""

import stat
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa


def field(data: bytes) -> bytes:
    return len(data).to_bytes(3, "big") + data


class Vendor:
    def __init__(self, folder: Path):
        self.folder = folder
        self.private = rsa.generate_private_key(65537, 2048)
        public = self.private.public_key()
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        (folder / "vendor.pem").write_bytes(pem)
        install = folder / "install"
        install.write_text(f"#!/bin/sh\ncp \"$1\" {folder}/installed && echo \"$2\" > {folder}/version\n")
        install.chmod(install.stat().st_mode | stat.S_IXUSR)

    def settings(self) -> list[str]:
        return ["--update-key", str(self.folder / "vendor.pem"), "--update-command", str(self.folder / "install")]

    def image(self, version: str, content: bytes) -> Path:
        blocks = -(-len(content) // 512)
        signed = field(b"What is new") + field(version.encode()) + blocks.to_bytes(4, "big")
        signed += content.ljust(blocks * 512, b"\0")
        signature = self.private.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        path = self.folder / f"update-{version}.bin"
        path.write_bytes(b"_NETHSM_UPDATE_\0" + field(signature) + signed)
        return path

    def installed(self) -> str:
        """The version that was installed last."""
        return (self.folder / "version").read_text().strip()
