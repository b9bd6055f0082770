"""Which e-mail and IP addresses in source code are somebody's: not samples, not private networks, not versions."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

MOST_LOCAL, MOST_DOMAIN, MOST_CONTEXT = 64, 255, 80
_LOCAL = re.compile(rb"[A-Za-z0-9_](?:[A-Za-z0-9_%+-]|\.(?!\.)){0,63}\Z")
_DOMAIN = re.compile(rb"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+([A-Za-z]{2,24})(?![A-Za-z0-9_@(\[=-])(?!\.[A-Za-z])")
# Country codes (ISO 3166) without those that end file names, and the generic domains that people have addresses under.
_COUNTRIES = (
    "ac ad ae af ag ai al am ao aq ar at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bw by bz ca cd cf cg ch ci ck"
    " cl cm cn co cr cu cv cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk fm fo fr ga gd ge gf gg gh gi gl gm gn gp gq"
    " gr gt gu gw gy hk hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr"
    " ls lt lu lv ly ma mc me mg mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe"
    " pf pg ph pk pl pm pn pr ps pt pw qa re ro rs ru rw sa sb sc sd se sg si sk sl sm sn so sr st su sv sx sy sz tc td tf tg th"
    " tj tk tl tm tn to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw"
)
_GENERIC = (
    "com net org edu gov mil int info biz name pro aero coop museum mobi jobs travel cat asia post dev app cloud online site tech"
    " xyz shop store blog email live world today company agency systems software solutions network digital media works zone"
    " science space team tools community foundation institute university academy global group plus berlin london paris nyc one"
)
_TOPS = frozenset((_COUNTRIES + " " + _GENERIC).split())
_SAMPLE_DOMAIN = re.compile(
    r"(?:.*\.)?(?:(?:my-?|your-?)?(?:example[0-9]*|domain|company|email|test|foo|bar|baz|host|server|somewhere|acme|site|website)"
    r"\.(?:com|org|net|edu|co|io|gov|dev|info|de|it)|[a-z]\.[a-z]+|example|invalid|test|localhost|(?:.*\.)?example\.[a-z.]+"
    r"|openssh\.com|libssh\.org)\Z",  # the last two name algorithms
    re.IGNORECASE,
)
_SERVICE = re.compile(
    rb"(?:git|hg|svn|ssh|noreply|no-reply|donotreply|do-not-reply|gitlab|user|username|you|your[._-]?(?:name|email))\Z"
)

_VERSION = re.compile(
    rb"(?:\b(?:v|ver|version|versions|release|firmware|build|revision|rev|sections?|sec|sect|chapter|clause|appendix|table|figure"
    rb"|oid|objectidentifier|rfc[ 0-9]*|since|upgrade[sd]?|pip|package|dependency|chrome|safari|firefox|assembly\w*)\b[^\n]{0,12}"
    rb"|[<>=!~^]=\s*[\"']?|[A-Za-z0-9]/|version[^\n]{0,24}|\xa7\s*)\Z",
    re.IGNORECASE,
)
_NETWORK = re.compile(
    rb"(?<![a-z])(?:ip|ipv4|ipaddr\w*|addr|address|addresses|hosts?|server|servers|dns|ping|gateway|subnet|proxy|nameserver|remote"
    rb"|peer|bind|listen|connect|resolver|tcp|udp|ssh|inet|cidr|netmask|client|from)(?![a-z])|://\Z",
    re.IGNORECASE,
)
# Resolvers that anybody may name: of Google, Cloudflare, Quad9, OpenDNS, Level 3, Verisign, Comodo, and AliDNS.
_RESOLVERS = (
    "8.8.8.8 8.8.4.4 1.1.1.1 1.0.0.1 9.9.9.9 149.112.112.112 208.67.222.222 208.67.220.220 4.2.2.1 4.2.2.2 4.2.2.3 4.2.2.4"
    " 64.6.64.6 64.6.65.6 8.26.56.26 8.20.247.20 223.5.5.5 223.6.6.6 114.114.114.114 2001:4860:4860::8888 2001:4860:4860::8844"
    " 2606:4700:4700::1111 2606:4700:4700::1001 2620:fe::fe"
)
_SAMPLES = "1.2.3.4 5.6.7.8 12.34.56.78 11.22.33.44 123.45.67.89 4.3.2.1"
_NO_PERSON = frozenset((_RESOLVERS + " " + _SAMPLES).split())
_UNICAST = ipaddress.ip_network("2000::/3")  # of IPv6, all that is given out
_SMALL = 32  # parts of versions are mostly below it


def email_at(text: memoryview, at: int) -> tuple[int, int] | None:
    """Start and end of the e-mail address around the `@` at byte `at`; None where it is none, or a sample."""
    first = max(0, at - MOST_LOCAL - 1)
    before, after = bytes(text[first:at]), bytes(text[at + 1 : at + 1 + MOST_DOMAIN])
    domain = _DOMAIN.match(after)
    if domain is None or domain[1].decode().lower() not in _TOPS or _SAMPLE_DOMAIN.match(domain[0].decode()):
        return None
    local = _LOCAL.search(re.split(rb"\\[nrt]", before)[-1])
    if local is None or len(local[0]) >= MOST_LOCAL or local[0].endswith(b".") or _SERVICE.match(local[0]):
        return None
    start = at - len(local[0])
    authority = bytes(text[max(0, start - 200) : start]).rpartition(b"://")[2]
    if len(authority) < min(start, 200) and not re.search(rb"[\s/?#\"'<>()]", authority):
        return None  # the user of a URL
    return start, at + 1 + domain.end()


def is_personal_ip(text: memoryview, start: int, end: int) -> bool:
    """Is text[start:end] a public address, and an address at all where it stands?

    What is around it is looked at from the text's beginning on, however near that is.
    """
    address = bytes(text[start:end]).decode()
    if not _is_public(address):
        return False
    if ":" in address:
        # Slices of sequences have colons too: an address has more parts than `1::2`.
        return len([group for group in address.split(":") if group]) >= 3 and not address.endswith("::")
    before = bytes(text[max(0, start - MOST_CONTEXT) : start]).rpartition(b"\n")[2]
    after = bytes(text[end : end + 24]).partition(b"\n")[0]
    if _VERSION.search(before) and not before.endswith(b"://"):
        return False
    parts = [int(part) for part in address.split(".")]
    if parts[3] == 0:
        return False  # a network
    # Parts of versions and of object identifiers are small, and the latter begin with 0, 1 or 2.
    is_small = parts[0] <= 2 or sum(part < _SMALL for part in parts[:3]) >= 2 or len(set(parts)) == 1
    return (
        not is_small or _NETWORK.search(before[-40:]) is not None or re.match(rb":[0-9]{2,5}\b|/[0-9]{1,2}\b", after) is not None
    )


@lru_cache(4096)
def _is_public(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if found.version == 6 and found not in _UNICAST:
        return False
    return found.is_global and not found.is_multicast and str(found) not in _NO_PERSON
