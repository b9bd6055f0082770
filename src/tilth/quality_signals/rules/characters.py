"""Classes of characters that the published rules name, as one table of bits by code point.

Sources of the definitions: the character classes of spaCy 3.8's English tokeniser and sentenciser (MIT licence), and the
punctuation of datatrove 0.10's filters (Apache-2.0). Ranges are written out, since those libraries do not follow the
Unicode version of the running Python.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt

# Bits of a code point's entry. The kernels take them as compile-time constants.
SPACE = 1 << 0  # str.isspace
LETTER = 1 << 1  # spaCy: a letter next to which hyphens, commas and slashes part words
LOWER = 1 << 2  # spaCy: lower case, or of a script without case
UPPER = 1 << 3  # spaCy: upper case, or of a script without case
QUOTE = 1 << 4  # spaCy: quotation marks and brackets of quotation
ICON = 1 << 5  # spaCy: symbols that are words of their own anywhere
PREFIX = 1 << 6  # spaCy: cut off at the start of a word
SUFFIX = 1 << 7  # spaCy: cut off at the end of a word
BEFORE_DOT = 1 << 8  # spaCy: a full stop after it is cut off
CURRENCY = 1 << 9  # spaCy: cut off after a digit
URL_LETTER = 1 << 10  # spaCy: starts and ends the labels of host names
DECIMAL = 1 << 11  # \d of `re`
WORD = 1 << 12  # \w of `re`
ALPHABETIC = 1 << 13  # str.isalpha
SYMBOL = 1 << 14  # datatrove: words of nothing else are not counted by Gopher's rules
TERMINAL = 1 << 15  # datatrove: ends the lines that FineWeb counts
SENTENCE_END = 1 << 16  # spaCy's sentenciser
PUNCTUATION = 1 << 17  # Unicode category P: does not start a sentence
LINE_BREAK = 1 << 18  # str.splitlines

_CASED = (
    "41-5A 61-7A C0-D6 D8-F6 F8-1BF 1C4-2AF 386 388-38A 38C 38E-38F 391-3A9 3AC-3AF 3B1-3C9 3CC-3CE 400-401 403-40A 40C-40D "
    "410-451 453-45A 45C-45D 490-491 496-497 4A2-4A3 4AE-4AF 4BA-4BB 4D8-4D9 4E8-4E9 1D00-1D25 1D6B-1D77 1D79-1D9A "
    "1E00-1EFF 2C60-2C7B 2C7E-2C7F A722-A76F A771-A787 A78B-A78E A790-A7B9 A7FA AB30-AB5A AB60-AB64 FF21-FF3A FF41-FF5A"
)
_UNCASED = (
    "591-5F4 620-64A 66E-6D5 6E5-6FF 750-77F 8A0-8BD 900-9FF B80-CFF D80-DFF 1100-137F 2E80-2FDF 2FF0-30FF 31C0-31EF "
    "3200-4DBF 4E00-9FFF AC00-D7AF F900-FAFF FB1D-FBB1 FBD3-FD3D FD50-FDC7 FDF0-FDFB FE30-FE4F FE70-FEFC 1EE00-1EEBB "
    "1F200-1F2FF 20000-2A6DF 2A700-2EBEF 2F800-2FA1F"
)
_ICONS = (
    "A6 A9 AE B0 482 58D-58E 60E-60F 6DE 6E9 6FD-6FE 7F6 9FA B70 BF3-BF8 BFA C7F D4F D79 F01-F03 F13 F15-F17 F1A-F1F F34 "
    "F36 F38 FBE-FC5 FC7-FCC FCE-FCF FD5-FD8 109E-109F 1390-1399 1940 19DE-19FF 1B61-1B6A 1B74-1B7C 2100-2101 2103-2106 "
    "2108-2109 2114 2116-2117 211E-2123 2125 2127 2129 212E 213A-213B 214A 214C-214D 214F 218A-218B 2195-2199 219C-219F "
    "21A1-21A2 21A4-21A5 21A7-21AD 21AF-21CD 21D0-21D1 21D3 21D5-21F3 2300-2307 230C-231F 2322-2328 232B-237B 237D-239A "
    "23B4-23DB 23E2-2426 2440-244A 249C-24E9 2500-25B6 25B8-25C0 25C2-25F7 2600-266E 2670-2767 2794-27BF 2800-28FF "
    "2B00-2B2F 2B45-2B46 2B4D-2B73 2B76-2B95 2B98-2BC8 2BCA-2BFE 2CE5-2CEA 2E80-2E99 2E9B-2EF3 2F00-2FD5 2FF0-2FFB 3004 "
    "3012-3013 3020 3036-3037 303E-303F 3190-3191 3196-319F 31C0-31E3 3200-321E 322A-3247 3250 3260-327F 328A-32B0 "
    "32C0-32FE 3300-33FF 4DC0-4DFF A490-A4C6 A828-A82B A836-A837 A839 AA77-AA79 FDFD FFE4 FFE8 FFED-FFEE FFFC-FFFD "
    "10137-1013F 10179-10189 1018C-1018E 10190-1019B 101A0 101D0-101FC 10877-10878 10AC8 1173F 16B3C-16B3F 16B45 1BC9C "
    "1D000-1D0F5 1D100-1D126 1D129-1D164 1D16A-1D16C 1D183-1D184 1D18C-1D1A9 1D1AE-1D1E8 1D200-1D241 1D245 1D300-1D356 "
    "1D800-1D9FF 1DA37-1DA3A 1DA6D-1DA74 1DA76-1DA83 1DA85-1DA86 1ECAC 1F000-1F02B 1F030-1F093 1F0A0-1F0AE 1F0B1-1F0BF "
    "1F0C1-1F0CF 1F0D1-1F0F5 1F110-1F16B 1F170-1F1AC 1F1E6-1F202 1F210-1F23B 1F240-1F248 1F250-1F251 1F260-1F265 "
    "1F300-1F3FA 1F400-1F6D4 1F6E0-1F6EC 1F6F0-1F6F9 1F700-1F773 1F780-1F7D8 1F800-1F80B 1F810-1F847 1F850-1F859 "
    "1F860-1F887 1F890-1F8AD 1F900-1F90B 1F910-1F93E 1F940-1F970 1F973-1F976 1F97A 1F97C-1F9A2 1F9B0-1F9B9 1F9C0-1F9C2 "
    "1F9D0-1F9FF 1FA60-1FA6D"
)
# Control characters count as symbols too.
_SYMBOLS = (
    "0-8 B-1F 22-2D 2F 3A-3E 40 5B-60 7B-9F AB B4 BB 2013-2014 2019 201C-201E 2026 2236 2501 25BA 3001 3008-300D 3010-3011 FF05 "
    "FF08-FF09 FF0C FF11 FF1A-FF1B FF5E"
)
_SENTENCE_ENDS = (
    "21 2E 3F 589 61F 6D4 700-702 7F9 964-965 104A-104B 1362 1367-1368 166E 1735-1736 1803 1809 1944-1945 1AA8-1AAB 1B5A-1B5B "
    "1B5E-1B5F 1C3B-1C3C 1C7E-1C7F 203C-203D 2047-2049 2E2E 2E3C 3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F "
    "A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB FE52 FE56-FE57 FF01 FF0E FF1F FF61 10A56-10A57 11047-11048 110BE-110C1 11141-11143 "
    "111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C 112A9 1144B-1144C 115C2-115C3 115C9-115D7 11641-11642 1173C-1173E "
    "11A42-11A43 11A9B-11A9C 11C41-11C42 16A6E-16A6F 16AF5 16B37-16B38 16B44 1BC9F 1DA88"
)
_FURTHER_TERMINALS = (
    "61D-61E 837 839 83D-83E 17D4-17D6 17D9-17DA 1B7D-1B7E 2E53-2E54 10F55-10F59 10F86-10F89 11944 11946 11EF7-11EF8 11F43-11F44 "
    "16E98"
)
_PUNCTUATION = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
_QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉\u2329\u232a⟦⟧"
_CURRENCIES = "$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿"
# Units that are cut off after a digit. Two that are joined are one in spaCy's list, for want of a space.
UNITS = (
    "km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s km/h kmh mph hPa Pa mbar mb MB "
    "kb KB gb GB tb TB T G M K % км км² км³ м м² м³ дм дм² дм³ см см² см³ мм мм² мм³ нм кг г мг м/с км/ч кПа Па мбар Кб КБ кб Мб "
    "МБ мб Гб ГБ гб Тб ТБ тбكم كم² كم³ م م² م³ سم سم² سم³ مم مم² مم³ كم غرام جرام جم كغ ملغ كوب اكواب"
)

_ASSIGNED = ((0x0, 0xD800), (0xE000, 0x40000), (0xE0000, 0xF0000))  # between and beyond them no character has a property


@cache
def character_classes() -> npt.NDArray[np.uint32]:
    """The bits of every code point (0x110000 entries); made once in a process."""
    bits = np.zeros(sys.maxunicode + 1, np.uint32)
    for first, last in _ASSIGNED:
        chars = list(map(chr, range(first, last)))
        for bit, values in (
            (SPACE, map(str.isspace, chars)),
            (DECIMAL, map(str.isdecimal, chars)),
            (ALPHABETIC, map(str.isalpha, chars)),
            (WORD, map(str.isalnum, chars)),
            (PUNCTUATION, (category[0] == "P" for category in map(unicodedata.category, chars))),
        ):
            bits[first:last] |= np.fromiter(values, bool, len(chars)).astype(np.uint32) * np.uint32(bit)
    for bit, codes in _classes():
        bits[codes] |= np.uint32(bit)
    return bits


def _classes() -> Iterator[tuple[int, list[int]]]:
    cased, uncased, icons = _ranges(_CASED), _ranges(_UNCASED), _ranges(_ICONS)
    lower = [code for code in cased if chr(code).islower()] + [0x294] + uncased
    upper = [code for code in cased if chr(code).isupper()] + [0x3A2] + uncased
    punctuation, quotes, currencies = _codes(_PUNCTUATION), _codes(_QUOTES), _codes(_CURRENCIES)
    yield LETTER, cased + uncased
    yield LOWER, lower
    yield UPPER, upper
    yield QUOTE, quotes
    yield ICON, icons
    yield PREFIX, _codes("§%=—–") + punctuation + quotes + currencies + icons
    yield SUFFIX, _codes("—–") + punctuation + quotes + icons
    yield BEFORE_DOT, lower + _codes("0123456789%²-+|(?:)") + punctuation + quotes
    yield CURRENCY, currencies
    yield URL_LETTER, _ranges("30-39 41-5A 61-7A A1-D7FF E000-FFFF")
    yield WORD, _codes("_")
    yield SYMBOL, _ranges(_SYMBOLS) + _ranges(_SENTENCE_ENDS) + _ranges(_FURTHER_TERMINALS)
    yield TERMINAL, _ranges(_SENTENCE_ENDS) + _ranges(_FURTHER_TERMINALS)
    yield SENTENCE_END, _ranges(_SENTENCE_ENDS)
    yield LINE_BREAK, _ranges("A-D 1C-1E 85 2028-2029")


def _codes(members: str) -> list[int]:
    return list(map(ord, members))


def _ranges(text: str) -> list[int]:
    """`41-43 5F` -> the four code points, ends included."""
    found: list[int] = []
    for part in text.split():
        first, _, last = part.partition("-")
        found += range(int(first, 16), int(last or first, 16) + 1)
    return found
