"""The formats of tokens that name themselves: what each begins with, and what it is made of, as its issuer documents it.

`pattern` is matched where a literal begins, or from the least to the most bytes in front of it that `before` says; what follows
may not go on with letters or digits. Lengths are those of the tokens that are issued today and were before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tilth.quality_signals.secrets.checksums import crc32_in_base62, is_json_web_token


class Format(NamedTuple):
    """A format of tokens.

    `check` tells of a match whether its checksum or its inner form holds. `secret` is the group of `pattern` that is
    secret. What is not `varied` has long runs of one character by its nature.
    """

    name: str
    literals: str
    pattern: str
    check: Callable[[bytes], bool] | None = None
    before: tuple[int, int] = (0, 0)
    secret: int = 0
    varied: bool = True


_B64 = "[A-Za-z0-9_-]"
_UUID = "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"

FORMATS = (
    # Clouds
    Format("aws_access_key_id", "AKIA ASIA ABIA ACCA", r"A[KSBC][IC]A[A-Z2-7]{16}"),
    Format("gcp_api_key", "AIza", rf"AIza{_B64}{{35}}"),
    Format("gcp_oauth_client_secret", "GOCSPX-", rf"GOCSPX-{_B64}{{28}}"),
    Format("gcp_oauth_access_token", "ya29.", r"ya29\.[A-Za-z0-9_.-]{60,}"),
    Format("azure_storage_key", "AccountKey=", r"AccountKey=([A-Za-z0-9+/]{86}==)", secret=1),
    Format("azure_shared_access_key", "SharedAccessKey=", r"SharedAccessKey=([A-Za-z0-9+/]{43}=)", secret=1),
    Format("azure_client_secret", "7Q~ 8Q~", r"[A-Za-z0-9_~.-]{3}[78]Q~[A-Za-z0-9_~.-]{31,34}", before=(3, 3)),
    Format("azure_sas_signature", "&sig= ?sig=", r"[&?]sig=([A-Za-z0-9%]{40,80}%3[Dd])", secret=1),
    Format("alibaba_access_key_id", "LTAI", r"LTAI[A-Za-z0-9]{12,20}"),
    Format("digitalocean_token", "dop_v1_ doo_v1_ dor_v1_", r"do[opr]_v1_[0-9a-f]{64}"),
    Format("heroku_key", "HRKU-", r"HRKU-[A-Za-z0-9_-]{36,60}"),
    Format("yandex_key", "AQVN", rf"AQVN{_B64}{{35,38}}"),
    Format("cloudflare_origin_ca_key", "v1.0-", r"v1\.0-[0-9a-f]{24}-[0-9a-f]{146}"),
    Format("fly_token", "fo1_ fm1r_ fm2_",
           r"(?:fo1_[A-Za-z0-9_-]{43}|fm1r_[A-Za-z0-9+/]{100,}={0,3}|fm2_[A-Za-z0-9+/]{100,}={0,3})"),
    Format("netlify_token", "nfp_", r"nfp_[A-Za-z0-9]{36}"),
    Format("scalingo_token", "tk-us-", r"tk-us-[A-Za-z0-9_-]{48}"),
    # Hosts of code and of packages
    Format("github_token", "ghp_ gho_ ghu_ ghs_ ghr_", r"gh[pousr]_[A-Za-z0-9]{36}(?:[A-Za-z0-9]{40})?", crc32_in_base62),
    Format("github_fine_grained_token", "github_pat_", r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    Format("gitlab_token", "glpat- gldt- glrt- glft- glsoat- glimt- glagent-",
           r"gl(?:pat|dt|rt|ft|soat|imt|agent)-[A-Za-z0-9_.-]{20,300}"),
    Format("gitlab_trigger_token", "glptt-", r"glptt-[0-9a-f]{40}"),
    Format("gitlab_ci_job_token", "glcbt-", r"glcbt-[0-9a-zA-Z]{1,5}_[A-Za-z0-9_-]{20}"),
    Format("gitlab_runner_registration", "GR1348941", rf"GR1348941{_B64}{{20}}"),
    Format("bitbucket_app_password", "ATBB", r"ATBB[A-Za-z0-9]{32}"),
    Format("atlassian_token", "ATATT3 ATCTT3", r"AT[AC]TT3[A-Za-z0-9_=-]{150,200}"),
    Format("npm_token", "npm_", r"npm_[A-Za-z0-9]{36}", crc32_in_base62),
    Format("pypi_token", "pypi-AgE", r"pypi-AgE[A-Za-z0-9_-]{85,}"),
    Format("rubygems_key", "rubygems_", r"rubygems_[0-9a-f]{48}"),
    Format("crates_io_token", "cio", r"cio[A-Za-z0-9]{32}"),
    Format("nuget_key", "oy2", r"oy2[a-z0-9]{43}"),
    Format("clojars_token", "CLOJARS_", r"CLOJARS_[a-z0-9]{60}"),
    Format("docker_hub_token", "dckr_pat_ dckr_oat_", rf"dckr_[po]at_{_B64}{{27,32}}"),
    Format("artifactory_key", "AKCp", r"AKCp[A-Za-z0-9]{69}"),
    Format("artifactory_reference_token", "cmVmd", r"cmVmd[A-Za-z0-9]{59}"),
    Format("sourcegraph_token", "sgp_ sgd_", r"sg[pd]_(?:(?:local|[0-9a-fA-F]{16})_)?[0-9a-fA-F]{40,64}"),
    # Models
    Format("openai_key", "sk-", rf"sk-(?:(?:proj|svcacct|admin)-)?{_B64}{{20,74}}T3BlbkFJ{_B64}{{20,74}}"),
    Format("anthropic_key", "sk-ant-", rf"sk-ant-(?:api|admin|sid|oat)[0-9]{{2}}-{_B64}{{80,120}}"),
    Format("hugging_face_token", "hf_ api_org_", r"(?:hf_|api_org_)[A-Za-z0-9]{34}"),
    Format("replicate_token", "r8_", r"r8_[A-Za-z0-9_-]{37}"),
    Format("groq_key", "gsk_", r"gsk_[A-Za-z0-9]{52}"),
    Format("perplexity_key", "pplx-", r"pplx-[A-Za-z0-9]{48,56}"),
    Format("xai_key", "xai-", r"xai-[A-Za-z0-9]{70,84}"),
    Format("openrouter_key", "sk-or-v1-", r"sk-or-v1-[0-9a-f]{64}"),
    Format("langsmith_key", "lsv2_", r"lsv2_(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{10}"),
    # Messages
    Format("slack_token", "xoxb- xoxp- xoxa- xoxr- xoxs- xoxo-", r"xox[bparso]-(?:[0-9]{8,14}-){1,3}[A-Za-z0-9-]{16,64}"),
    Format("slack_app_token", "xapp-", r"xapp-[0-9]-[A-Z0-9]{9,12}-[0-9]{10,14}-[0-9a-f]{60,66}"),
    Format("slack_config_token", "xoxe.xox xoxe-1-", r"xoxe(?:\.xox[bp])?-[0-9]-[A-Za-z0-9]{120,180}"),
    Format("slack_webhook", "hooks.slack.com/",
           r"hooks\.slack\.com/(?:services|workflows|triggers)/([A-Za-z0-9+/]{40,56})", secret=1),
    Format("discord_bot_token", "", rf"[MNO][A-Za-z0-9_-]{{22,27}}\.{_B64}{{6}}\.{_B64}{{27,40}}", before=(23, 28)),
    Format("discord_webhook", "discord.com/api/webhooks/ discordapp.com/api/webhooks/",
           rf"discord(?:app)?\.com/api/webhooks/([0-9]{{17,20}}/{_B64}{{60,72}})", secret=1),
    Format("telegram_bot_token", ":AA", rf"[0-9]{{8,10}}:AA{_B64}{{33}}", before=(8, 10)),
    Format("twilio_api_key", "SK", r"SK[0-9a-f]{32}"),
    Format("sendgrid_key", "SG.", rf"SG\.{_B64}{{20,24}}\.{_B64}{{39,50}}"),
    Format("mailgun_key", "key-", r"key-[0-9a-z]{32}"),
    Format("mailchimp_key", "-us", r"[0-9a-f]{32}-us[0-9]{1,2}", before=(32, 32)),
    Format("brevo_key", "xkeysib-", r"xkeysib-[0-9a-f]{64}-[A-Za-z0-9]{16}"),
    Format("microsoft_teams_webhook", ".webhook.office.com/webhookb2/",
           rf"\.webhook\.office\.com/webhookb2/({_UUID}@{_UUID}/IncomingWebhook/[0-9a-f]{{32}}/{_UUID})", secret=1),
    # Money and shops
    Format("stripe_key", "sk_live_ rk_live_ sk_test_ rk_test_", r"[sr]k_(?:live|test)_[A-Za-z0-9]{20,247}"),
    Format("stripe_webhook_secret", "whsec_", r"whsec_[A-Za-z0-9+/]{32,}={0,2}"),
    Format("square_token", "sq0atp- sq0csp- sq0idp- EAAA", rf"(?:sq0(?:at|cs|id)p-{_B64}{{22,43}}|EAAA[A-Za-z0-9+=_-]{{60}})"),
    Format("shopify_token", "shpat_ shpca_ shppa_ shpss_", r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"),
    Format("paypal_braintree_token", "access_token$production$", r"access_token\$production\$[0-9a-z]{16}\$[0-9a-f]{32}"),
    Format("razorpay_key", "rzp_live_ rzp_test_", r"rzp_(?:live|test)_[A-Za-z0-9]{14}"),
    Format("flutterwave_key", "FLWSECK", r"FLWSECK(?:_TEST)?-[0-9a-hA-H]{12,40}(?:-X)?"),
    Format("shippo_token", "shippo_live_ shippo_test_", r"shippo_(?:live|test)_[0-9a-f]{40}"),
    Format("easypost_key", "EZAK EZTK", r"EZ[AT]K[A-Za-z0-9]{54}"),
    Format("duffel_token", "duffel_test_ duffel_live_", r"duffel_(?:test|live)_[A-Za-z0-9_=-]{43}"),
    # Tools of developers
    Format("grafana_token", "glsa_", r"glsa_[A-Za-z0-9]{32}_[0-9a-fA-F]{8}"),
    Format("grafana_cloud_token", "glc_", r"glc_[A-Za-z0-9+/]{32,400}={0,2}"),
    Format("databricks_token", "dapi", r"dapi[0-9a-f]{32}(?:-[0-9])?"),
    Format("hashicorp_vault_token", "hvs. hvb. hvr.", rf"hv[sbr]\.{_B64}{{24,300}}"),
    Format("terraform_token", ".atlasv1.", r"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9=_-]{60,70}", before=(14, 14)),
    Format("pulumi_token", "pul-", r"pul-[0-9a-f]{40}"),
    Format("doppler_token", "dp.pt. dp.st. dp.ct. dp.sa. dp.scim. dp.audit.",
           r"dp\.(?:pt|st|ct|sa|scim|audit)\.(?:[a-z0-9_-]{2,35}\.)?[A-Za-z0-9]{40,44}"),
    Format("new_relic_key", "NRAK- NRII- NRJS- NRRA-", r"NR(?:AK|II|JS|RA)-[A-Za-z0-9-]{19,42}"),
    Format("sentry_token", "sntrys_ sntryu_", r"(?:sntryu_[0-9a-f]{64}|sntrys_eyJ[A-Za-z0-9+/=_-]{80,})"),
    Format("postman_key", "PMAK-", r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}"),
    Format("planetscale_token", "pscale_tkn_ pscale_pw_ pscale_oauth_", r"pscale_(?:tkn|pw|oauth)_[A-Za-z0-9_.=-]{32,64}"),
    Format("supabase_token", "sbp_ sb_secret_", rf"(?:sbp_[0-9a-f]{{40}}|sb_secret_{_B64}{{22}}_{_B64}{{8}})"),
    Format("tailscale_key", "tskey-", r"tskey-(?:auth|api|client|scim|webhook)-[A-Za-z0-9]{8,20}-[A-Za-z0-9]{20,40}"),
    Format("prefect_key", "pnu_", r"pnu_[A-Za-z0-9]{36}"),
    Format("readme_key", "rdme_", r"rdme_[a-z0-9]{70}"),
    Format("openshift_token", "sha256~", rf"sha256~{_B64}{{43}}"),
    Format("dynatrace_token", "dt0c01. dt0s01.", r"dt0[cs]01\.[A-Z0-9]{24}\.[A-Z0-9]{64}"),
    Format("launchdarkly_key", "sdk- api- mob-", rf"(?:sdk|api|mob)-{_UUID}"),
    Format("age_secret_key", "AGE-SECRET-KEY-1", r"AGE-SECRET-KEY-1[AC-HJ-NP-Z02-9]{58}"),
    Format("one_password_token", "ops_eyJ", r"ops_eyJ[A-Za-z0-9+/_-]{250,}={0,3}"),
    # Services
    Format("airtable_token", "pat", r"pat[A-Za-z0-9]{14}\.[0-9a-f]{64}"),
    Format("notion_token", "ntn_ secret_", r"(?:ntn_[A-Za-z0-9]{46}|secret_[A-Za-z0-9]{43})"),
    Format("linear_key", "lin_api_ lin_oauth_", r"lin_(?:api|oauth)_[A-Za-z0-9]{40,64}"),
    Format("figma_token", "figd_", rf"figd_{_B64}{{38,44}}"),
    Format("dropbox_token", "sl.", rf"sl\.(?:u\.)?{_B64}{{130,1300}}"),
    Format("hubspot_token", "pat-na1- pat-eu1- pat-na2-", rf"pat-(?:na|eu)[0-9]-{_UUID}"),
    Format("mapbox_secret_token", "sk.eyJ", rf"sk\.eyJ{_B64}{{60,}}\.{_B64}{{22,}}"),
    Format("facebook_token", "EAAC EAAB", r"EAA[BC][A-Za-z0-9]{90,}"),
    Format("twitter_bearer_token", "AAAAAAAAAAAAAAAAAAAAA", r"A{21,24}[B-Za-z0-9%][A-Za-z0-9%]{58,120}", varied=False),
    Format("typeform_token", "tfp_", r"tfp_[A-Za-z0-9_.=-]{59}"),
    Format("contentful_token", "CFPAT-", rf"CFPAT-{_B64}{{43}}"),
    Format("adafruit_key", "aio_", r"aio_[A-Za-z0-9]{28}"),
    Format("adobe_client_secret", "p8e-", r"p8e-[A-Za-z0-9]{32}"),
    Format("frameio_token", "fio-u-", r"fio-u-[A-Za-z0-9_=-]{64}"),
    Format("json_web_token", "eyJ", rf"eyJ{_B64}{{10,}}\.eyJ{_B64}{{10,}}\.{_B64}{{16,}}", is_json_web_token),
)  # fmt: skip
