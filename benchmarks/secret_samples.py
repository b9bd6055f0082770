"""Secrets that nobody has: drawn at random, at run time, in the forms that issuers document.

The forms are written here once more, apart from the patterns that look for them. `40x` is forty characters of the alphabet `x`.
"""

from __future__ import annotations

import base64
import json
import random
import re
import string
import zlib

ALPHABETS = {
    "w": string.ascii_letters + string.digits,
    "h": "0123456789abcdef",
    "d": string.digits,
    "l": string.ascii_lowercase + string.digits,
    "u": string.ascii_uppercase + string.digits,
    "b": string.ascii_letters + string.digits + "-_",
    "s": string.ascii_letters + string.digits + "+/",
    "t": string.ascii_uppercase + "234567",
    "e": "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L",
}
_UUID = "<8h>-<4h>-<4h>-<4h>-<12h>"
FORMS = {
    "aws_access_key_id": "AK" "IA<16t>",
    "gcp_api_key": "AI" "za<35b>",
    "gcp_oauth_client_secret": "GOC" "SPX-<28b>",
    "azure_storage_key": "Account" "Key=<86s>==",
    "azure_client_secret": "<3w>8" "Q~<34b>",
    "alibaba_access_key_id": "LT" "AI<20w>",
    "digitalocean_token": "do" "p_v1_<64h>",
    "github_fine_grained_token": "github" "_pat_<22w>_<59w>",
    "gitlab_token": "gl" "pat-<20b>",
    "gitlab_trigger_token": "gl" "ptt-<40h>",
    "bitbucket_app_password": "AT" "BB<32w>",
    "atlassian_token": "AT" "ATT3<186b>",
    "pypi_token": "py" "pi-AgEIcHlwaS5vcmc<130b>",
    "rubygems_key": "ruby" "gems_<48h>",
    "crates_io_token": "ci" "o<32w>",
    "docker_hub_token": "dckr" "_pat_<27b>",
    "openai_key": "s" "k-<20w>T3Blbk" "FJ<20w>",
    "openai_key of a project": "s" "k-proj-<74b>T3Blbk" "FJ<74b>",
    "anthropic_key": "s" "k-ant-api03-<93b>AA",
    "hugging_face_token": "h" "f_<34w>",
    "replicate_token": "r" "8_<37w>",
    "groq_key": "gs" "k_<52w>",
    "slack_token": "xo" "xb-<12d>-<13d>-<24w>",
    "slack_app_token": "xa" "pp-1-A<10u>-<13d>-<64h>",
    "slack_webhook": "hooks.sla" "ck.com/services/T<10u>/B<10u>/<24w>",
    "discord_bot_token": "M<23b>.<6b>.<38b>",
    "telegram_bot_token": "7<9d>:A" "A<33b>",
    "twilio_api_key": "S" "K<32h>",
    "sendgrid_key": "S" "G.<22b>.<43b>",
    "mailgun_key": "ke" "y-<32h>",
    "mailchimp_key": "<32h>-u" "s12",
    "brevo_key": "xkey" "sib-<64h>-<16w>",
    "stripe_key": "sk" "_live_<24w>",
    "stripe_webhook_secret": "wh" "sec_<32w>",
    "square_token": "sq0" "atp-<22b>",
    "shopify_token": "shp" "at_<32h>",
    "easypost_key": "EZ" "AK<54w>",
    "grafana_token": "gl" "sa_<32w>_<8h>",
    "databricks_token": "da" "pi<32h>",
    "hashicorp_vault_token": "hv" "s.<92b>",
    "terraform_token": "<14w>.atlas" "v1.<67b>",
    "pulumi_token": "pu" "l-<40h>",
    "doppler_token": "dp" ".pt.<43w>",
    "new_relic_key": "NR" "AK-<27u>",
    "sentry_token": "sntr" "yu_<64h>",
    "postman_key": "PM" "AK-<24h>-<34h>",
    "planetscale_token": "pscale" "_tkn_<43b>",
    "tailscale_key": "tsk" "ey-auth-<12w>-<32w>",
    "age_secret_key": "AGE-SECRET" "-KEY-1<58e>",
    "airtable_token": "pa" "t<14w>.<64h>",
    "notion_token": "nt" "n_<46w>",
    "linear_key": "lin" "_api_<40w>",
    "figma_token": "fi" "gd_<40b>",
    "hubspot_token": "pa" f"t-na1-{_UUID}",
}  # fmt: skip
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase


def sample(form: str, rng: random.Random) -> str:
    """A string of a form: `<n a>` without the blank becomes n characters of alphabet a."""
    return re.sub(r"<(\d+)([a-z])>", lambda part: "".join(rng.choices(ALPHABETS[part[2]], k=int(part[1]))), form)


def tokens(rng: random.Random) -> dict[str, str]:
    """A token of every form by name, those with a checksum with the right one."""
    found = {name: sample(form, rng) for name, form in FORMS.items()}
    found["github_token"] = with_checksum("gh" + rng.choice("pousr"), rng)
    found["npm_token"] = with_checksum("np" + "m", rng)
    found["json_web_token"] = json_web_token(rng)
    found["private_key"] = private_key(rng)
    return found


def with_checksum(prefix: str, rng: random.Random) -> str:
    """As GitHub's and npm's: thirty characters and their CRC-32 in six digits to the base 62."""
    body = sample("<30w>", rng)
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return f"{prefix}_{body}{digits}"


def json_web_token(rng: random.Random) -> str:
    """Header, claims and a signature that signs nothing."""
    parts = [json.dumps({"alg": "HS256", "typ": "JWT"}), json.dumps({"sub": sample("<12d>", rng), "iat": rng.randrange(10**9)})]
    encoded = [base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, sample("<43b>", rng)])


def private_key(rng: random.Random) -> str:
    """A PEM block around bytes that are no key."""
    label = rng.choice(["RSA ", "EC ", "OPENSSH ", ""]) + "PRIVATE" + " KEY"
    lines = [sample("<64s>", rng) for _ in range(rng.randrange(3, 26))]
    return "\n".join([f"-----BEGIN {label}-----", *lines, sample("<38s>==", rng), f"-----END {label}-----"])
