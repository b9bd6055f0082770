"""Secrets and addresses in source code: every format is found, samples and hashes are not, and no input takes long."""

from __future__ import annotations

import importlib.util
import random
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

from tilth.quality_signals.edits import apply_edits
from tilth.quality_signals.families.secrets import PLACEHOLDERS, redactions
from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.secrets.checksums import base62_crc32, crc32_in_base62, is_json_web_token
from tilth.quality_signals.secrets.formats import FORMATS
from tilth.quality_signals.secrets.judge import Finding, find_secrets

Score = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def samples(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("secret_samples", repository / "benchmarks" / "secret_samples.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(text: str) -> list[Finding]:
    (items,) = find_secrets(TextBatch(pa.array([text], pa.large_string())))
    return items


def spans(text: str) -> list[tuple[str, str]]:
    data = text.encode()
    return [(one.kind, data[one.start : one.end].decode()) for one in found(text)]


def redacted(text: str, **placeholders: str) -> str:
    texts = pa.array([text], pa.large_string())
    return apply_edits(texts, redactions(texts, placeholders or PLACEHOLDERS))[0].as_py()


def test_there_are_many_formats_each_with_a_name_of_its_own() -> None:
    assert len({form.name for form in FORMATS}) == len(FORMATS) >= 40


def test_every_form_is_found_whole_in_every_place(samples: ModuleType) -> None:
    rng = random.Random(7)
    missed = []
    for _ in range(20):
        for name, token in samples.tokens(rng).items():
            for text in (token, f'x = "{token}"\n', f"é: {token}\n", f'"a\\n{token}"', f"curl -H 'X: {token}' -d a=b"):
                secret = token.removeprefix("Account" + "Key=").rpartition("services/")[2]
                hits = [one for one in found(text) if one.kind == "key"]
                place = text.encode().find(secret.encode())
                if not any(one.start <= place and one.end >= place + len(secret.encode()) for one in hits):
                    missed.append((name, text))
    # Chance makes samples of a few: runs of one character, or sequences.
    assert len(missed) <= 20 * 5 * len(samples.FORMS) * 0.01, missed[:5]


def test_a_checksum_or_an_inner_form_makes_a_finding_certain(samples: ModuleType, score: Score) -> None:
    rng = random.Random(1)
    token = samples.with_checksum("gh" + "p", rng)
    wrong = token[:-1] + ("0" if token[-1] != "0" else "1")
    assert crc32_in_base62(token.encode())
    assert not crc32_in_base62(wrong.encode())
    assert base62_crc32(b"") == b"000000"
    assert is_json_web_token(samples.json_web_token(rng).encode())
    assert not is_json_web_token(b"eyJhYmMi.x.y")
    values = score("secrets", f"{token}\n{wrong}\n")
    assert (values["n_secrets"], values["n_certain_secrets"], values["kinds_of_secrets"]) == (2, 1, ["github_token"])


@pytest.mark.parametrize(
    "text",
    [
        "AKIA" + "IOSFODNN7EXAMPLE",
        "gh" + "p_" + "x" * 36,
        "gh" + "p_" + "abcdefghijklmnopqrstuvwxyz0123456789",
        "task-" + "s" * 40,
        "password = 'changeme1234'",
        "password = '${DB_PASSWORD_2}'",
        "api_key = os.environ['API_KEY_2']",
        "secret_key = 'your-secret-key-here-123'",
        "token = get_next_token_2(reader_1)",
        "https://user:password@host.org/x",
        "https://{user}:{password1}@host.org",
        "sha256_of_token = '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'",
        '"token_uuid": "0b8fb8a4-7a1d-4c5d-9a30-2ad3f1c6f0aa"',
        '"integrity": "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg=="',
        "-----BEGIN PRIVATE" + " KEY-----\" + body + \"-----END PRIVATE" + " KEY-----",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQDkq8l1ZsPVjFmzW1iJkBbGcM8Yv3qfX8b me",
        "@decorator\nclass A: pass\nx = a@b.T; y = self@other.weight; logo@2x.png; npm i @types/node@18.2.1",
        "git@github.com:a/b.git, jane@example.com, noreply@host.org, aes256-gcm@openssh.com",
        "127.0.0.1 10.1.2.3 192.168.0.1 203.0.113.9 8.8.8.8 0.0.0.0 255.255.255.0 2001:db8::1 fe80::1 ::1",
        "version 1.2.3.4, v4.3.2.1, Chrome/60.0.3112.90, ==100.2.3.4, oid 1.3.101.112, 1.3.6.1.5.5.7.48.1",
        "a[::2], a[1::3], std::dead::beef1, 12:30:45, 00:1b:44:11:3a:b7",
    ],
)  # fmt: skip
def test_samples_hashes_versions_and_code_are_left_alone(text: str) -> None:
    assert spans(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgres://app:S3cr3tw0rd@db.host.org/x", ("password", "S3cr3tw0rd")),
        ('PASSWORD = "Tr0ub4dor&3"', ("password", "Tr0ub4dor&3")),
        ("api_key: str = 'k3J9xQ2mVb7ZpL4tR8wN'", ("key", "k3J9xQ2mVb7ZpL4tR8wN")),
        ('os.environ["CLIENT_SECRET"] = "k3J9xQ2mVb7ZpL4tR8wN"', ("key", "k3J9xQ2mVb7ZpL4tR8wN")),
        ("export AWS_SECRET_ACCESS_KEY=wJ7rXUt2FEMIqK7MDENGzbPxRfiCYq8Lm3Zk9T\n", ("key", "wJ7rXUt2FEMIqK7MDENGzbPxRfiCYq8Lm3Zk9T")),
        ('{"auth_key": "0f3b9c2e7a5d418896bc03e2f7d1a45c"}', ("key", "0f3b9c2e7a5d418896bc03e2f7d1a45c")),
        ("# Grüße: Jane Doe <jane.doe@tilth-farm.com>", ("email", "jane.doe@tilth-farm.com")),
        ("host = '54.123.47.56'", ("ip_address", "54.123.47.56")),
        ("connect to 2600:1f13:cfe:3650:a1dc:237c:393a:4ba7.", ("ip_address", "2600:1f13:cfe:3650:a1dc:237c:393a:4ba7")),
    ],
)  # fmt: skip
def test_what_is_secret_in_its_place_is_found(text: str, expected: tuple[str, str]) -> None:
    assert spans(text) == [expected]


def test_a_short_file_with_a_shape_keeps_its_keys_redacted(samples: ModuleType) -> None:
    """A published pipeline switches the redaction of keys off in short files that hold `sha` or `hash`."""
    key = samples.with_checksum("gh" + "p", random.Random(3))
    text = f'import numpy\nx = numpy.ones(3)\nprint(x.shape)\nshare = hash(x)\nTOKEN = "{key}"\n' + "y = 1\n" * 5
    assert redacted(text) == text.replace(key, "<KEY>")


def test_an_address_near_the_beginning_is_judged_by_what_is_around_it() -> None:
    """A published pipeline looks at text[start - 100:], which is elsewhere when start is below 100."""
    assert spans("dns 5.6.7.9") == [("ip_address", "5.6.7.9")]
    assert spans("v 5.6.7.9\n" + "# the dns server\n" * 9) == []
    assert spans("x" * 200 + "\ndns 5.6.7.9") == spans("dns 5.6.7.9")


def test_a_text_is_judged_alone(score: Score) -> None:
    """What stands before a text in the same buffer is not its context."""
    texts = pa.array(["version", "host 54.123.47.56", "gh", "x" * 3, "api_key = '", "k3J9xQ2mVb7ZpL4tR8wN'"], pa.large_string())
    together = list(find_secrets(TextBatch(texts)))
    assert together == [found(text.as_py()) for text in texts]
    assert [one.kind for items in together for one in items] == ["ip_address"]
    assert list(find_secrets(TextBatch(texts.slice(1, 2)))) == together[1:3]


def test_redaction_counts_characters_names_its_reasons_and_finds_nothing_again(samples: ModuleType) -> None:
    rng = random.Random(5)
    values = samples.tokens(rng)
    text = "".join(
        f"é漢😀 {name}: '{value}' joe.{i}@tilth-farm.com 54.123.47.{i + 1}\n" for i, (name, value) in enumerate(values.items())
    )
    once = redacted(text)
    assert once.count("<EMAIL>") == once.count("<IP_ADDRESS>") == len(values)
    assert once.count("<KEY>") >= len(values) - 2
    assert redacted(once) == once
    assert found(once) == []
    edits = redactions(pa.array([text], pa.large_string()))
    assert {"email", "ipv4", "secret_github_token", "secret_private_key"} <= set(edits.column("reason").to_pylist())
    for start, end, reason in zip(*(edits.column(name).to_pylist() for name in ("start", "end", "reason")), strict=True):
        assert reason != "email" or text[start:end].endswith("@tilth-farm.com")


def test_placeholders_can_be_others_and_kinds_can_stay() -> None:
    text = "joe@tilth-farm.com at 54.123.47.56"
    assert redacted(text, email="[mail]") == "[mail] at 54.123.47.56"


@pytest.mark.parametrize(
    "unit",
    ["=", "QUJD", "@", "a@b.", "eyJ.", "://a:b@", "-----BEGIN PRIVATE KEY-----\n", "1.", "1::", "token=", "token='a1b2c3d4 ", " sk-",
     "aaaaaa.", "-us1", "1:AA", "password = 'A1b2c3d4!' "],
)  # fmt: skip
def test_no_input_makes_it_more_than_linear(unit: str) -> None:
    def seconds(n_bytes: int) -> float:
        batch = TextBatch(pa.array([unit * (n_bytes // len(unit))], pa.large_string()))
        found = []
        for _ in range(3):  # the shortest: a busy machine takes longer at times
            start = time.process_time()
            list(find_secrets(batch))
            found.append(time.process_time() - start)
        return min(found)

    seconds(1000)
    assert seconds(400_000) < 8 * max(seconds(100_000), 0.02)
