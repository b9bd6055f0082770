"""Strings that spaCy's blank English tokeniser cuts in a way of its own: contractions, abbreviations, times, emoticons.

Source of the definition: spaCy 3.8, tokenizer exceptions of `lang/en` and of the base language (MIT licence), written
down here as the few patterns that they follow. A bar marks a cut; `'` also stands for the typographic apostrophe.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

# Subjects, and the clitics that follow them with or without apostrophes.
_CLITICS = (
    ("i", "'m 'm|a 'll 'll|'ve 'd 'd|'ve 've"),
    ("you we they", "'ll 'll|'ve 'd 'd|'ve 've 're"),
    ("he she it", "'ll 'll|'ve 'd 'd|'ve 's"),
    ("who what when where why how there", "'s 'll 'll|'ve 're 've 'd 'd|'ve"),
    ("that this", "'s 'll 'll|'ve 'd 'd|'ve"),
    ("these those", "'ll 'll|'ve 're 've 'd 'd|'ve"),
    ("ca could do does did had may might must need ought sha should wo would", "n't n't|'ve"),
    ("could might must should would not", "'ve"),
    ("ai are is was were have has dare", "n't"),
)
_NOT_CUT = "ill its hell shell shed were well whore"  # words that a clitic without apostrophe would make
_BOTH_CASES = (
    "doin doin' goin goin' nothin nothin' nuthin nuthin' ol ol' somethin somethin' lovin lovin' havin havin' "
    "can|not gon|na got|ta let|'s c'm|on 'cause 'cos 'coz 'cuz o'clock"
)
_AS_WRITTEN = (
    "em 'em ll 'll nuff 'nuff y'|all y|all how|'d|'y How|'d|'y 'S 's ‘S ‘s and/or w/o 're 'bout ma'am Ma'am 'd "
    "Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. Ind. Jan. Jul. Jun. Kan. Kans. "
    "Ky. La. Mar. Mass. Mich. Minn. Miss. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. S.C. Sep. "
    "Sept. Tenn. Va. Wash. Wis. a.m. Adm. Bros. co. Co. Corp. D.C. Dr. e.g. E.g. E.G. Gen. Gov. i.e. I.e. I.E. Inc. Jr. Ltd. "
    "Md. Messrs. Mo. Mont. Mr. Mrs. Ms. p.m. Ph.D. Prof. Rep. Rev. Sen. St. vs. v.s. "
    "' \\\") <space> '' C++ a. b. c. d. e. f. g. h. i. j. k. l. m. n. o. p. q. r. s. t. u. v. w. x. y. z. ä. ö. ü. \\t \\n —"
)
_EMOTICONS = (
    ":) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] :o) (o: :} :-} 8) 8-) (-8 ;) ;-) (; (-; :( :-( :(( :-(( :((( "
    ":-((( ): )-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| ]= =[ :1 :P :-P :p :-p :O :-O :o :-o :0 :-0 :() >:o :* :-* :3 "
    ":-3 =3 :> :-> :X :-X :x :-x :D :-D ;D ;-D =D xD XD xDD XDD 8D 8-D ^_^ ^__^ ^___^ >.< >.> <.< ._. ;_; -_- -__- v.v V.V v_v "
    "V_V o_o o_O O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o 0.0 o.0 0.o @_@ <3 <33 <333 </3 (^_^) (-_-) (._.) (>_<) (*_*) (¬_¬) ಠ_ಠ "
    "ಠ︵ಠ (ಠ_ಠ) ¯\\(ツ)/¯ (╯°□°）╯︵┻━┻ ><(((*>"
)


@cache
def exceptions() -> dict[str, tuple[str, ...]]:
    """Each exception with the words that it is cut into. White space, which yields no words, is left out."""
    cut = {"".join(words): words for words in _cut()}
    typographic = {string.replace("'", "’"): tuple(word.replace("'", "’") for word in words) for string, words in cut.items()}
    return cut | typographic


def _cut() -> Iterator[tuple[str, ...]]:
    for subjects, clitics in _CLITICS:
        for subject in subjects.split():
            for clitic in clitics.split():
                for first in (subject, subject.title()):
                    yield (first, *clitic.split("|"))
                    bare = clitic.replace("'", "")
                    if (first + bare.replace("|", "")).lower() not in _NOT_CUT.split():
                        yield (first, *bare.split("|"))
    for entry in _BOTH_CASES.split():
        for cased in (entry, _capitalised(entry)):
            yield tuple(cased.split("|"))
    for entry in _AS_WRITTEN.split():
        yield tuple(entry.split("|"))
    for hour in range(1, 13):
        for period in ("a.m.", "am", "p.m.", "pm"):
            yield (str(hour), period)
    for unit in "cfkCFK":
        yield ("°", unit, ".")
    for entry in _EMOTICONS.split():  # some hold the bar that marks cuts elsewhere
        yield (entry,)


def _capitalised(entry: str) -> str:
    first = next(place for place, char in enumerate(entry) if char.isalpha())
    return entry[:first] + entry[first].upper() + entry[first + 1 :]
