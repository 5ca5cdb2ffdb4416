"""A signature says who made a bundle: whatever is changed, added or signed by somebody else is refused."""

import shutil

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from index.bundle.bundle import BundleRefused, open_bundle, sign_bundle
from index.bundle.files import manifest_bytes, read_manifest
from index.bundle.manifest import SIGNATURE
from index.bundle.signature import SigningKey, TrustedKeys, name_of

PLAIN = serialization.NoEncryption()


def write_pair(folder, name, key=None, encryption=PLAIN):
    """(private, public) PEM files of a key."""
    key = key or ed25519.Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    kind = serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, kind, encryption))
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return {name: write_pair(folder, name) for name in ("ours", "theirs")}


@pytest.fixture(scope="module")
def trusted(pairs):
    return TrustedKeys.read(pairs["ours"][1])


@pytest.fixture
def signed(bundles, tmp_path, pairs):
    """A bundle that was signed after it was built."""
    folder = shutil.copytree(bundles["recgpt"], tmp_path / "bundle")
    sign_bundle(folder, SigningKey.read(pairs["ours"][0]))
    return folder


def refusal(folder, trusted):
    with pytest.raises(BundleRefused) as refused:
        open_bundle(folder, trusted=trusted)
    return str(refused.value)


def test_a_signed_bundle_opens_and_says_by_whom(signed, trusted):
    assert open_bundle(signed, trusted=trusted).signed_by == name_of(trusted.keys[0])


def test_a_signature_changes_no_digest_and_asks_nobody(signed, bundles):
    opened = open_bundle(signed)
    assert (opened.signed_by, opened.digest) == (None, open_bundle(bundles["recgpt"]).digest)


def test_an_unsigned_bundle_is_refused(bundles, trusted):
    assert "it is not signed, and only signed bundles are served" in refusal(bundles["recgpt"], trusted)


def test_a_bundle_of_somebody_else_is_refused(signed, trusted, pairs):
    sign_bundle(signed, SigningKey.read(pairs["theirs"][0]))
    assert "by none of the trusted keys" in refusal(signed, trusted)


def test_a_signature_of_another_bundle_is_refused(signed, trusted, bundles, tmp_path):
    other = shutil.copytree(bundles["comirec"], tmp_path / "other")
    shutil.copy(signed / SIGNATURE, other)
    assert "by none of the trusted keys" in refusal(other, trusted)


def test_a_manifest_that_an_attacker_wrote_anew_is_refused(signed, trusted, bundles):
    """Its checksums fit, which is all that an unsigned bundle is asked for."""
    (signed / SIGNATURE).rename(signed.parent / "kept")
    shutil.rmtree(signed)
    shutil.copytree(bundles["comirec"], signed)
    (signed.parent / "kept").rename(signed / SIGNATURE)
    assert open_bundle(signed)
    assert "by none of the trusted keys" in refusal(signed, trusted)


@pytest.mark.parametrize("content", [b"", b"\n", b"no signature", b"AAAA", 2000 * b"A", b"\xff"])
def test_what_is_no_signature_is_refused(signed, trusted, content):
    (signed / SIGNATURE).write_bytes(content)
    assert "is refused: " in refusal(signed, trusted)


def test_every_bit_of_a_signature_counts(signed, trusted):
    written = (signed / SIGNATURE).read_bytes()
    manifest = manifest_bytes(signed)
    assert trusted.check(signed, manifest)
    for place in range(0, len(written) - 3, 7):
        flipped = bytes([*written[:place], written[place] ^ 1, *written[place + 1 :]])
        (signed / SIGNATURE).write_bytes(flipped)
        with pytest.raises(BundleRefused):
            trusted.check(signed, manifest)


def test_a_link_is_no_signature(signed, trusted):
    (signed / SIGNATURE).rename(signed.parent / "elsewhere")
    (signed / SIGNATURE).symlink_to(signed.parent / "elsewhere")
    assert "link" in refusal(signed, trusted)


def test_two_keys_are_trusted_while_one_takes_the_place_of_the_other(signed, pairs, tmp_path):
    both = tmp_path / "both.pem"
    both.write_bytes(pairs["theirs"][1].read_bytes() + pairs["ours"][1].read_bytes())
    assert open_bundle(signed, trusted=TrustedKeys.read(both)).signed_by


def test_a_spoiled_bundle_is_not_signed(bundles, tmp_path, pairs):
    folder = shutil.copytree(bundles["recgpt"], tmp_path / "bundle")
    with (folder / "golden.safetensors").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(BundleRefused):
        sign_bundle(folder, SigningKey.read(pairs["ours"][0]))
    assert not (folder / SIGNATURE).exists()


def test_files_that_hold_no_such_key_are_refused(tmp_path, pairs):
    encrypted, _ = write_pair(tmp_path, "encrypted", None, serialization.BestAvailableEncryption(b"word"))
    other, other_public = write_pair(tmp_path, "other", ec.generate_private_key(ec.SECP256R1()))
    (tmp_path / "nothing").write_text("nothing")
    with pytest.raises(ValueError, match="is encrypted"):
        SigningKey.read(encrypted)
    with pytest.raises(ValueError, match="another kind than ed25519"):
        SigningKey.read(other)
    with pytest.raises(ValueError, match="no private key in PEM"):
        SigningKey.read(pairs["ours"][1])
    for path in (other_public, tmp_path / "nothing", pairs["ours"][0]):
        with pytest.raises(ValueError, match="public keys of ed25519"):
            TrustedKeys.read(path)


def test_the_commands_sign(run_recall, checkpoints, pairs, trusted, tmp_path):
    private, _ = pairs["ours"]
    built = ("build", "--checkpoint", checkpoints["recgpt"], "--output")
    assert run_recall(*built, tmp_path / "built", "--sign-key", private).status == 0
    assert open_bundle(tmp_path / "built", trusted=trusted).signed_by
    assert run_recall(*built, tmp_path / "later").status == 0
    assert run_recall("sign", tmp_path / "later", "--sign-key", private).last_line["digest"] == (
        read_manifest(tmp_path / "later").digest
    )
    assert open_bundle(tmp_path / "later", trusted=trusted).signed_by
    refused = run_recall(*built, tmp_path / "never", "--sign-key", tmp_path / "built" / "manifest.json")
    assert (refused.status, "no private key in PEM" in refused.sentence) == (2, True)
    assert not (tmp_path / "never").exists()


def test_a_service_serves_what_was_signed_alone(launch, run_recall, bundles, signed, pairs, tmp_path):
    unsigned = shutil.copytree(bundles["recgpt"], signed.parent / "unsigned")
    trust = ("--trust-key", pairs["ours"][1])
    at_start = run_recall("serve", "--arm", f"main={unsigned}", "--port", 0, "--state-dir", tmp_path / "state", *trust)
    assert (at_start.status, at_start.sentence.count("it is not signed, and only signed bundles are served")) == (2, 1)
    wrong = run_recall("serve", "--arm", f"main={signed}", "--port", 0, "--trust-key", pairs["ours"][0])
    assert (wrong.status, "setting trust_key: " in wrong.sentence) == (2, True)
    # another bundle, so that the reload is one
    shutil.rmtree(unsigned)
    shutil.copytree(bundles["comirec"], unsigned)
    with launch("--arm", f"main={signed}", *map(str, trust), "--admin-key", "admin") as served:
        asked = ("reload", "main", "--bundle", "unsigned", "--url", served.url)
        refused = run_recall(*asked, RECALL_ADMIN_KEY="admin")
        assert (refused.status, "it is not signed" in refused.sentence) == (2, True)
        assert run_recall("sign", unsigned, "--sign-key", pairs["ours"][0]).status == 0
        assert run_recall(*asked, RECALL_ADMIN_KEY="admin").last_line["reloaded"][0]["changed"]
        assert f'"signed_by":"{open_bundle(unsigned, trusted=TrustedKeys.read(pairs["ours"][1])).signed_by}"' in (
            served.log.read_text()
        )
