"""KEY=VALUE words of the command line. Unlike in Hydra's grammar, text needs no quotes of its own."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mnistjax.config import ConfigError, shorten

OUTPUT_KEYS = ("hydra.run.dir", "hydra.sweep.dir", "sweep.resume")  # a sweep has only one value of each
DATA_KEYS = ("data.dir", "data.raw_dir", "data.group")  # folders, and a regular expression
HUB = "hf-hub:"  # before the name of a model at the Hugging Face hub
GROUPS = ("data", "task", "model", "optimizer", "schedule")  # the config has the choice at GROUP.name
JOB_KEYS = (*GROUPS, "experiment", "augment", "train", "init_from", "seed")  # they describe a job
NAME = re.compile(rf"^({'|'.join(GROUPS)})\.name=")
WORD = re.compile(r"((?:\+{0,2}|~)[a-zA-Z_$][\w./@$-]*)=(.*)", re.DOTALL | re.ASCII)
# A value that the user has quoted for Hydra.
QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)
PLAIN = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*([/.-]+[A-Za-z0-9_]+)*/?")  # a path that needs no quotes
UNQUOTED = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)  # another text that needs none, unless it is reserved
RESERVED = ("true", "false", "null", "inf", "nan")
FUNCTION = re.compile(r"(choice|range|glob|sort|shuffle|tag|interval)\(.*\)", re.DOTALL)
SWEPT = re.compile(rf"{FUNCTION.pattern}|[^,]+(,[^,]+)+", re.DOTALL)
# A text that Hydra reads without quotes.
BARE = re.compile(r"([\w/+.$%*@?|: \t-]|\\[\\()\[\]{}:=, \t]?)*", re.ASCII)
# A quoted text, an interpolation, a list, a mapping or a function, possibly with a mistake in it.
SPECIAL = re.compile(
    r"""\s*['"]|.*(['"]\s*\Z|[\[\]{}]|\$\{)|\s*(\w+|(choice|range|glob|sort|shuffle|tag|int|str)\s+)\(""",
    re.DOTALL,
)
LONGEST = 50_000  # characters in a word, enough for a list of 10,000 seeds
DEEPEST = 30  # nested brackets
LONGEST_SHOWN = 300  # characters of a word in an error that are meant to be typed


def read_words(words: list[str], *, multirun: bool = False) -> list[str]:
    """The words for Hydra's parser, with quotes around text that has characters which its grammar lacks.

    Folders and data.group may contain any characters, except that with -m commas separate the values of a
    data folder and of data.group. In other values, quotes, brackets, functions and ${...} are Hydra's. The
    key of a group's name, model.name=mlp, is its choice, model=mlp. ConfigError for a word that is not text,
    or too long for the parser.

    >>> read_words(["hydra.run.dir=a,b", "wandb.entity=müller", "wandb.tags=[a=b,c d]", "seed=1"])
    ["hydra.run.dir='a,b'", "wandb.entity='müller'", "wandb.tags=['a=b',c d]", 'seed=1']
    """
    for word in words:
        check_text(word)
        check_size(word)
    return [NAME.sub(r"\1=", _read_word(word, multirun), count=1) for word in words]


def check_text(word: str) -> None:
    """Raises ConfigError for a NUL, and for bytes that are not text, except in an output folder."""
    if "\0" in word:
        raise ConfigError(f"{shorten(word)!r} has a NUL, which is not allowed")
    if _split(word)[0].lstrip("+") not in OUTPUT_KEYS:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{shorten(word)!r} is not UTF-8 text, or the locale is not UTF-8") from None


def check_size(word: str) -> None:
    """Raises ConfigError for a word on which Hydra's parser would take minutes or overflow the stack."""
    if len(word) > LONGEST:
        raise ConfigError(f"{shorten(word)!r} has {len(word):,} characters; at most {LONGEST:,} are allowed")
    depth = deepest = 0
    for mark in re.findall(r"[\[\](){}]", word):
        depth += 1 if mark in "[({" else -1
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        raise ConfigError(f"{shorten(word)!r} has {deepest} nested brackets; at most {DEEPEST} are allowed")


def _read_word(word: str, multirun: bool) -> str:
    key, value = _split(word)
    name = key.lstrip("+")
    if name not in OUTPUT_KEYS + DATA_KEYS or _is_hydras(name, value, multirun):
        return f"{key}={_quote_texts(value)}" if key else word
    if PLAIN.fullmatch(value) and value.lower() not in RESERVED:
        return word
    return f"{key}={quote(value, literal='${' not in value)}"


def _split(word: str) -> tuple[str, str]:
    """The key, with + or ~ before it, and the value of a word; two empty texts if it is not KEY=VALUE."""
    match = WORD.fullmatch(word)
    return (match[1], match[2]) if match else ("", "")


def _quote_texts(value: str) -> str:
    """The value, or the values between commas, with quotes around each text that Hydra would not read.

    Unchanged if it is unclear what is text.
    """
    is_list = value.startswith("[") and value.endswith("]")
    texts = (value[1:-1] if is_list else value).split(",")
    for text in texts:
        if SPECIAL.match(text) or (len(texts) > 1 and text.count("(") != text.count(")")):
            return value
    quoted = ",".join(text if BARE.fullmatch(text) else quote(text.strip()) for text in texts)
    return f"[{quoted}]" if is_list else quoted


def explain_quotes(word: str) -> str:
    """How to write a word that Hydra does not read: its value in quotes, for bash, if it is KEY=VALUE."""
    key, value = _split(word)
    if not key:
        return "write KEY=VALUE, like train.epochs=5"
    typed = shell_join([f"{key}={quote(value, mark=chr(34))}"])
    return f"if the value is a text, write {typed if len(typed) < LONGEST_SHOWN else 'it in quotes'}"


def _is_hydras(key: str, value: str, multirun: bool) -> bool:
    """Whether a value is in Hydra's grammar, so that quotes would change its meaning."""
    nothing = value == "null" and key not in ("hydra.run.dir", "hydra.sweep.dir")
    several = multirun and key in DATA_KEYS and SWEPT.fullmatch(value)
    return nothing or bool(QUOTED.fullmatch(value) or several)


def quote(text: str | Path, *, literal: bool = True, mark: str = "'") -> str:
    """A text in quotes, as the value of an override. If `literal`, ${...} in it is not interpolated."""
    text = str(text)
    if literal:
        text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    text = re.sub(rf"(\\*){mark}", rf"\1\1\\{mark}", text)
    text = re.sub(r"(\\+)\Z", r"\1\1", text)
    return f"{mark}{text}{mark}"


def make_text(key: str, value: Any) -> str:
    """A value in Hydra's grammar; a text stays as it is if it is a function of that, like interval(0.1,1)."""
    value = getattr(value, "tolist", lambda: value)()  # of a NumPy scalar, or a row of an array
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case int() | float():
            return repr(value)
        case str() if FUNCTION.fullmatch(value):
            return value
        case str() if UNQUOTED.fullmatch(value) and value.lower() not in RESERVED:
            return value
        case str() | Path():
            return quote(value)
        case list() | tuple():
            return f"[{','.join(make_text(key, one) for one in value)}]"
    raise ConfigError(f"{key}: a value must be a number, a text or a tuple of them; got {shorten(value)!r}")


def folder_word(key: str, folder: str | Path) -> str:
    """KEY=FOLDER as a user must type it, before the shell's own quotes."""
    value = str(folder)
    special = _is_hydras(key, value, multirun=True) or "${" in value
    return f"{key}={quote(value) if special else value}"


def path_argument(path: str) -> str:
    """A path as an argument of a command, which would read one with a dash at its start as an option."""
    return f"./{path}" if path.startswith("-") else path


def shell_join(words: Iterable[str]) -> str:
    """The words as one line for bash.

    >>> print(shell_join(["mnistjax", "hydra.run.dir=a b", "x\\ny"]))
    mnistjax 'hydra.run.dir=a b' $'x\\ny'
    """
    return " ".join(map(_shell_quote, words))


def printable(text: str) -> str:
    """The text as one line, with control characters escaped: a line break becomes "\\n"."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _shell_quote(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(_shell_escape(character) for character in word) + "'"


def _shell_escape(character: str) -> str:
    if character in "'\\":
        return f"\\{character}"
    if character.isprintable():
        return character
    return {"\n": "\\n", "\t": "\\t"}.get(character) or "".join(
        f"\\x{byte:02x}" for byte in os.fsencode(character)
    )
