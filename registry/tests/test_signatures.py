"""A vendor's signature, from the wheel to what pip installed; and publishers that an index attests to."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import attrs
import pytest

from clipsec_registry import (
    ByPublisher,
    BySignature,
    Lock,
    Registry,
    SignatureError,
    read_lock,
    read_public_key,
    sign_wheel,
    trust,
    write_key_pair,
    write_lock,
)
from clipsec_registry._attestations import verify_wheel
from clipsec_registry._signatures import statement_of

ATTESTED = Path(__file__).parent / "attested"
WHEEL = ATTESTED / "circleci_sign_publish_example-0.0.1.dev137-py3-none-any.whl"
PROVENANCE = ATTESTED / f"{WHEEL.name}.provenance"
PIPELINE = "circleci:fdd9283f-e619-46af-8f9c-851f7d3e8b2b/8e4f8ab2-8d7c-4827-9f15-de076d6d647f"

METADATA = "Metadata-Version: 2.1\nName: vendor-x\nVersion: {}\n"
PARTS = {
    "vendor_x/__init__.py": "class Plugin:\n    summary, api_version = 'signed', '1.0'\n",
    "vendor_x/weights.bin": "0123",
    "vendor_x-{}.data/purelib/vendor_x_extra.py": "x = 1\n",
    "vendor_x-{}.data/scripts/vendor-x": "#!python\nprint('a script')\n",
    "vendor_x-{}.data/data/share/vendor-x.txt": "outside the site folder",
    "vendor_x-{}.dist-info/METADATA": METADATA,
    "vendor_x-{}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "vendor_x-{}.dist-info/entry_points.txt": "[clipsec.detectors]\nvendor-x = vendor_x:Plugin\n"
    "[console_scripts]\nvendor-y = vendor_x:Plugin\n",
}


def make_wheel(folder: Path, version: str = "1.0", **changes: str) -> Path:
    """A wheel with everything that installers treat differently."""
    folder.mkdir(exist_ok=True)
    path = folder / f"vendor_x-{version}-py3-none-any.whl"
    parts = {name.format(version): text.replace("{}", version) for name, text in (PARTS | changes).items()}
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in parts.items():
            wheel.writestr(name, text)
        record = f"vendor_x-{version}.dist-info/RECORD"
        wheel.writestr(record, "".join(f"{name},,\n" for name in [*parts, record]))
    return path


@pytest.fixture
def pip(site: Path):
    def install(wheel: Path) -> None:
        """As a user would, bytecode and all; into the folder that is first on the path."""
        for old in [*site.glob("vendor_x*"), *site.glob("bin"), *site.glob("share")]:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        options = ["--quiet", "--no-index", "--no-deps", "--compile", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "install", *options, "--target", str(site), str(wheel)]
        subprocess.run(command, check=True, capture_output=True, text=True)

    return install


@pytest.fixture
def keys(tmp_path: Path):
    """`keys("vendor")` makes a pair and returns the private file and the public key."""

    def make(name: str = "vendor", passphrase: str = "") -> tuple[Path, str]:
        private, public = tmp_path / f"{name}.key", tmp_path / f"{name}.pub"
        write_key_pair(private, public, passphrase)
        return private, read_public_key(public)

    return make


def record():
    [found] = [r for r in Registry().records() if r.distribution == "vendor-x"]
    return found


def trusted(before: Lock | None = None, voucher: BySignature | ByPublisher | None = None) -> Lock:
    return trust([record()], before or Lock(), voucher)


def test_what_a_wheel_says_is_what_pip_installs(pip, tmp_path):
    """The vendor's digests, computed from the wheel, are the user's, computed from the site folder."""
    wheel = make_wheel(tmp_path)
    pip(wheel)
    statement, entry = statement_of(wheel), Lock.of([record()]).distributions["vendor-x"]
    assert (statement.distribution, statement.version) == (entry.name, entry.version)
    assert statement.files == dict(entry.files)
    assert "vendor_x_extra.py" in statement.files
    assert not [name for name in statement.files if "script" in name or "share" in name]


@pytest.mark.parametrize("detached", [False, True])
def test_a_signed_wheel_is_trusted_by_its_key(pip, keys, tmp_path, detached, site):
    """Signed, installed, verified before anything is imported, and the lock says by whom."""
    private, key = keys()
    wheel = make_wheel(tmp_path)
    before = statement_of(wheel)
    signature = sign_wheel(wheel, private, detached=detached)
    assert statement_of(wheel) == before
    pip(wheel)
    voucher = BySignature(key, signature if detached else None)
    lock = write_lock(tmp_path / "clipsec.lock", trusted(voucher=voucher))
    assert "vendor_x" not in sys.modules
    assert lock.distributions["vendor-x"].signer == key
    assert read_lock(tmp_path / "clipsec.lock") == lock
    registry = Registry(lock=lock)
    assert registry.load(registry.find("detectors", "vendor-x"), strict=True).summary == "signed"


def test_signing_again_replaces_the_signature(pip, keys, tmp_path):
    """A wheel carries one signature, and its RECORD lists it once, with its digest."""
    wheel = make_wheel(tmp_path)
    for name in ("first", "second"):
        private, key = keys(name)
        sign_wheel(wheel, private)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        rows = archive.read("vendor_x-1.0.dist-info/RECORD").decode()
    assert len(names) == len(set(names))
    assert names[-1].endswith("RECORD")
    assert rows.count("clipsec-signature.json,sha256=") == 1
    pip(wheel)
    assert trusted(voucher=BySignature(key)).distributions["vendor-x"].signer == key


def test_later_versions_are_held_to_the_key(pip, keys, tmp_path):
    """A new version by the same key needs one command; by another key, or by none, it is refused."""
    private, key = keys()
    other, other_key = keys("other")
    wheel = make_wheel(tmp_path)
    sign_wheel(wheel, private)
    pip(wheel)
    lock = trusted(voucher=BySignature(key))

    following = make_wheel(tmp_path, "1.1")
    pip(following)
    with pytest.raises(SignatureError, match=r"vendor-x 1\.1 is not signed"):
        trusted(lock)
    sign_wheel(following, other)
    pip(following)
    with pytest.raises(SignatureError, match="is by another key") as caught:
        trusted(lock)
    assert key in str(caught.value)
    assert other_key in str(caught.value)
    with pytest.raises(SignatureError, match="the lock holds vendor-x to") as caught:
        trusted(lock, BySignature(other_key))
    assert "delete the entry" in caught.value.remedy
    problem = Registry(lock=lock).find("detectors", "vendor-x")
    assert "1.0, but 1.1 is installed" in problem.reason
    assert f"verifies that it is by {key} too" in problem.remedy

    sign_wheel(following, private)
    pip(following)
    assert trusted(lock).distributions["vendor-x"].signer == key


def test_the_same_bytes_need_no_second_proof(pip, keys, tmp_path, site):
    """Trusting again what is as it was keeps the signer, also when the signature's file is gone."""
    private, key = keys()
    wheel = make_wheel(tmp_path)
    signature = sign_wheel(wheel, private, detached=True)
    pip(wheel)
    lock = trusted(voucher=BySignature(key, signature))
    signature.unlink()
    assert trusted(lock) == lock
    (site / "vendor_x" / "weights.bin").write_text("4567")
    with pytest.raises(SignatureError, match="is not signed"):
        trusted(lock)


@pytest.mark.parametrize(
    ("path", "text", "difference"),
    [
        ("vendor_x/__init__.py", "x = 1", "changed vendor_x/__init__.py"),
        ("vendor_x/weights.bin", None, "missing vendor_x/weights.bin"),
        ("vendor_x/_more.py", "x = 1", "added vendor_x/_more.py"),
    ],
)
def test_other_files_than_the_signed_ones_are_refused(pip, keys, tmp_path, site, path, text, difference):
    """A file that was changed, removed or added after signing is named, whatever RECORD says."""
    private, key = keys()
    wheel = make_wheel(tmp_path)
    sign_wheel(wheel, private)
    pip(wheel)
    (site / path).unlink(missing_ok=True)
    if text is not None:
        (site / path).write_text(text)
    with pytest.raises(SignatureError, match=f"is not what the signature covers: {difference}"):
        trusted(voucher=BySignature(key))


def envelope(site: Path) -> Path:
    return site / "vendor_x-1.0.dist-info" / "clipsec-signature.json"


def edited(data: dict, change) -> dict:
    statement = json.loads(base64.b64decode(data["payload"]))
    change(statement)
    return data | {"payload": base64.b64encode(json.dumps(statement).encode()).decode()}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: edited(data, lambda s: s.update(version="2.0")), "was altered after it was signed"),
        (lambda data: edited(data, lambda s: s["files"].clear()), "was altered after it was signed"),
        (lambda data: data | {"payloadType": "application/json"}, "was altered after it was signed"),
        (lambda data: data | {"signatures": []}, r"is by another key \(nobody\)"),
        (lambda data: data | {"signatures": [{"sig": "AAAA"}]}, "is by another key"),
        (lambda data: data | {"signatures": [{"sig": "%"}]}, "malformed"),
        (lambda data: data | {"payload": 3}, "malformed"),
        (lambda data: {}, "malformed"),
        (lambda data: [], "malformed"),
    ],
)
def test_a_signature_that_was_touched_proves_nothing(pip, keys, tmp_path, site, edit, message):
    """An edited statement, another type, no signature, rubbish: each is refused, none crashes."""
    private, key = keys()
    wheel = make_wheel(tmp_path)
    sign_wheel(wheel, private)
    pip(wheel)
    path = envelope(site)
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    with pytest.raises(SignatureError, match=message) as caught:
        trusted(voucher=BySignature(key))
    assert caught.value.remedy
    assert "vendor_x" not in sys.modules


def test_a_signature_of_another_version_is_refused(pip, keys, tmp_path):
    """An old, validly signed statement does not cover a new version."""
    private, key = keys()
    old = sign_wheel(make_wheel(tmp_path), private, detached=True)
    pip(make_wheel(tmp_path, "1.1"))
    with pytest.raises(SignatureError, match=r"covers: it is of vendor-x 1\.0"):
        trusted(voucher=BySignature(key, old))


def test_keys_are_kept_well(keys, tmp_path, monkeypatch):
    """A private key is its owner's alone, may be encrypted, and is never overwritten."""
    private, _ = keys(passphrase="correct horse")
    assert stat.S_IMODE(os.stat(private).st_mode) == 0o600
    wheel = make_wheel(tmp_path)
    for passphrase, message in (("", "is encrypted"), ("wrong", "cannot be used as a private key")):
        with pytest.raises(SignatureError, match=message):
            sign_wheel(wheel, private, passphrase)
    assert sign_wheel(wheel, private, "correct horse") == wheel
    with pytest.raises(SignatureError, match="exists already"):
        keys()
    with pytest.raises(SignatureError, match="not a public key"):
        read_public_key(private)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(SignatureError, match="need the library cryptography") as caught:
        read_public_key(tmp_path / "vendor.pub")
    assert "clipsec-registry[signing]" in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"not a zip", None])
def test_only_wheels_are_signed(keys, tmp_path, content):
    """Anything else is refused and left as it was."""
    private, _ = keys()
    path = tmp_path / "odd-1.0-py3-none-any.whl"
    if content is None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("odd.py", "")
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(SignatureError, match="is not a proper wheel"):
        sign_wheel(path, private)
    assert path.read_bytes() == before


# attested/: a wheel (MIT) that PyPI published, and its attestation; from pypi-attestations 0.0.30's tests.


def test_a_published_wheel_is_verified():
    """A real attestation of PyPI's holds, against the trust root that sigstore ships, without network."""
    verify_wheel(WHEEL, PROVENANCE, PIPELINE)


@pytest.mark.parametrize(
    "publisher",
    [
        "github:acme/checks/release.yml",
        "gitlab:acme/checks//.gitlab-ci.yml",
        "google:builder@acme.example",
        PIPELINE.replace("fdd9283f", "00000000"),
    ],
)
def test_another_publisher_is_refused(publisher):
    """The same wheel and provenance prove nothing about anybody else."""
    with pytest.raises(SignatureError, match="no attestation says that"):
        verify_wheel(WHEEL, PROVENANCE, publisher)


def test_another_wheel_is_refused(tmp_path, pip):
    """One byte more, another file, or another plugin than the wheel: refused."""
    altered = tmp_path / WHEEL.name
    altered.write_bytes(WHEEL.read_bytes() + b"\0")
    with pytest.raises(SignatureError, match="digest"):
        verify_wheel(altered, PROVENANCE, PIPELINE)
    with pytest.raises(SignatureError, match="holds no attestation"):
        verify_wheel(WHEEL, altered, PIPELINE)
    with pytest.raises(SignatureError, match="does not name a publisher"):
        verify_wheel(WHEEL, PROVENANCE, "acme")
    pip(make_wheel(tmp_path))
    with pytest.raises(SignatureError, match="it is of circleci-sign-publish-example"):
        trusted(voucher=ByPublisher(PIPELINE, WHEEL, PROVENANCE))


def test_held_to_a_publisher(pip, tmp_path):
    """What was attested keeps its publisher while its bytes stay; another version needs its own proof."""
    pip(make_wheel(tmp_path))
    entry = Lock.of([record()]).distributions["vendor-x"]
    lock = Lock({"vendor-x": attrs.evolve(entry, signer="github:acme/checks/release.yml")})
    assert trusted(lock) == lock
    pip(make_wheel(tmp_path, "1.1"))
    with pytest.raises(SignatureError, match="is not what was verified") as caught:
        trusted(lock)
    assert "--publisher github:acme/checks/release.yml" in caught.value.remedy


def test_without_the_library_it_says_how_to_get_it(monkeypatch):
    """Attestations are an extra."""
    monkeypatch.setitem(sys.modules, "pypi_attestations", None)
    with pytest.raises(SignatureError) as caught:
        verify_wheel(WHEEL, PROVENANCE, PIPELINE)
    assert "clipsec-registry[attestations]" in caught.value.remedy
