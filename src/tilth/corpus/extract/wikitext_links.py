"""Links of wikitext: what they show. Files, categories and links to the same page in other languages show nothing in the text."""

from __future__ import annotations

import re
from collections.abc import Callable

DROPPED = "\1"
LINK = re.compile(r"\[\[([^\[\]|\n]*+)(?:\|((?:[^\[\]]++|\[(?!\[)[^\[\]]*+\])*+))?\]\]")
EXTERNAL = re.compile(
    r"\[(?:(?:https?|ftps?|sftp|ircs?|git|svn|news|mailto|gopher|magnet):|//)[^\s\[\]<]*+([^\[\]\n]*+)\]", re.IGNORECASE
)
MEDIA = re.compile(r"\.(?:jpe?g|png|gif|svg|tiff?|webp|xcf|og[gvax]|web[mp]|mp[34g]|wav|flac|mid|pdf|djvu)$", re.IGNORECASE)
STRAY = re.compile(r"\[\[|\]\]")
STRAY_FILE = r"\[\[\s*+(?:%s)\s*+:[^\n|]*+(?:\|[^\n|]*+)*+"
ROUNDS = 6  # captions hold links, which hold nothing; deeper nesting is damage
# The English names hold on every wiki; the others are for exports that do not say theirs.
FILES = ("file", "image", "media")
CATEGORIES = (
    "categoria", "categorie", "category", "categoría", "catégorie", "flokkur", "kategooria", "kategori",
    "kategoria", "kategorie", "kategorija", "kategorio", "kategoría", "kategória", "luokka", "thể loại",
    "κατηγορία", "категория", "категорија", "категорія", "катэгорыя", "קטגוריה", "רده", "تصنيف", "رده",
    "श्रेणी", "หมวดหมู่", "カテゴリ", "分类", "分類", "분류",
)  # fmt: skip
# The language codes of Wikimedia's wikis; other prefixes (wikt, commons, s) are links that are shown.
LANGUAGES = frozenset(re.findall(r"\S+", """
    aa ab ace ady af ak als alt am ami an ang ann anp ar arc ary arz as ast atj av avk awa ay az azb ba ban bar bat-smg
    bbc bcl bdr be be-tarask be-x-old bew bg bh bi bjn blk bm bn bo bpy br bs btm bug bxr ca cbk-zam cdo ce ceb ch cho chr
    chy ckb co cr crh cs csb cu cv cy da dag de dga din diq dsb dtp dty dv dz ee el eml en eo es et eu ext fa fat ff fi
    fiu-vro fj fo fon fr frp frr fur fy ga gag gan gcr gd gl glk gn gom gor got gpe gsw gu guc gur guw gv ha hak haw he hi
    hif ho hr hsb ht hu hy hyw hz ia iba id ie ig igl ii ik ilo inh io is it iu ja jam jbo jv ka kaa kab kbd kbp kcg kg
    kge ki kj kk kl km kn knc ko koi kr krc ks ksh ku kus kv kw ky la lad lb lbe lez lfn lg li lij lld lmo ln lo lrc lt
    ltg lv lzh mad mai map-bms mdf mg mh mhr mi min mk ml mn mni mnw mo mos mr mrj ms mt mus mwl my myv mzn na nah nan nap
    nds nds-nl ne new ng nia nl nn no nov nqo nr nrm nso nup nv ny oc olo om or os pa pag pam pap pcd pcm pdc pfl pi pih
    pl pms pnb pnt ps pt pwn qu rm rmy rn ro roa-rup roa-tara rsk ru rue rup rw sa sah sat sc scn sco sd se sg sgs sh shi
    shn shy si simple sk skr sl sm smn sn so sq sr srn ss st stq su sv sw szl szy ta tay tcy tdd te tet tg th ti tig tk tl
    tly tn to tpi tr trv ts tt tum tw ty tyv udm ug uk ur uz ve vec vep vi vls vo vro wa war wo wuu xal xh xmf yi yo yue
    za zea zgh zh zh-classical zh-min-nan zh-yue zu
"""))  # fmt: skip


def link_resolver(files: tuple[str, ...] = (), categories: tuple[str, ...] = ()) -> Callable[[str], str]:
    """A function that replaces the links of a page by what they show; `files` and `categories` are a wiki's names for these."""
    hidden = frozenset(name.lower() for name in (*FILES, *CATEGORIES, *files, *categories)) | LANGUAGES
    names = "|".join(re.escape(name.lower()) for name in sorted({*FILES, *files}))
    stray_file = re.compile(STRAY_FILE % names, re.IGNORECASE)

    def shown(match: re.Match[str]) -> str:
        target, text = match[1].strip(), match[2]
        colon = target.find(":")
        if colon > 0 and target[:colon].strip().lower().replace("_", " ") in hidden:
            return DROPPED
        if colon > 0 and MEDIA.search(target):
            return DROPPED
        if text is None:
            return target[1:] if colon == 0 else target
        return text or target.lstrip(":").rpartition(":")[2].partition(" (")[0]

    def resolve(text: str) -> str:
        text = EXTERNAL.sub(_external, text)
        for _ in range(ROUNDS):
            text, n_links = LINK.subn(shown, text)
            if not n_links or "[[" not in text:
                break
        if "[[" in text:
            text = stray_file.sub(_last_part, text)
        return STRAY.sub("", text)

    return resolve


def _external(match: re.Match[str]) -> str:
    return match[1].strip() or DROPPED


def _last_part(match: re.Match[str]) -> str:
    """Of a file whose link is never closed, the caption stays: it may be the rest of the paragraph."""
    parts: list[str] = match[0].split("|")
    return parts[-1] if len(parts) > 1 else DROPPED
