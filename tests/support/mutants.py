"""Programs with one mistake each, made by rule: for tests that must notice every one of them.

A rule is a pattern and what stands in its place. Comments and texts in quotes are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Rule = tuple[str, re.Pattern[str], str]


@dataclass(frozen=True)
class Mutant:
    """A program with one mistake."""

    file: str
    line: int
    """The number of the line that was changed, from 1."""
    rule: str
    before: str
    after: str
    text: str
    """The whole program."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} [{self.rule}] {self.before.strip()}  -->  {self.after.strip() or '(gone)'}"


def _rule(name: str, pattern: str, instead: str) -> Rule:
    return name, re.compile(pattern), instead


LUA: Sequence[Rule] = (
    _rule("< for <=", r"(?<![<>~=])<=", "<"),
    _rule("<= for <", r"(?<![<>~=])<(?!=)", "<="),
    _rule("> for >=", r"(?<![<>~=])>=", ">"),
    _rule(">= for >", r"(?<![<>~=])>(?!=)", ">="),
    _rule("~= for ==", r"(?<![<>~=])==", "~="),
    _rule("== for ~=", r"~=", "=="),
    _rule("- for +", r" \+ ", " - "),
    _rule("+ for -", r" - (?!-)", " + "),
    _rule("or for and", r"\band\b", "or"),
    _rule("and for or", r"\bor\b", "and"),
    _rule("min for max", r"\bmax\(", "min("),
    _rule("max for min", r"\bmin\(", "max("),
    _rule("true for false", r"\bfalse\b", "true"),
    _rule("one more", r"(?<![\w.])(\d+)(?![\w.])", ""),
)
_STATEMENT = re.compile(r"\s*(?!local\b|return\b|if\b|for\b|while\b|else|end\b|function\b|break\b)\S.*[^,({]$")
"""A line that is a statement by itself: an assignment or a call."""


def of_lua(file: str, text: str) -> list[Mutant]:
    """All mutants of a Lua script by the rules, and one for each statement on a line of its own that is left out."""
    found = []
    lines = text.split("\n")
    for number, line in enumerate(lines):
        code = line.partition("--")[0]
        spans = [match.span() for match in re.finditer(r"'[^']*'", code)]
        changes: list[tuple[str, str]] = []
        for name, pattern, instead in LUA:
            for match in pattern.finditer(code):
                if any(start <= match.start() < end for start, end in spans):
                    continue
                new = instead or str(int(match[0]) + 1)
                changes.append((name, code[: match.start()] + new + code[match.end() :]))
        if _STATEMENT.match(code) and code.count("(") == code.count(")") and "function" not in code:
            changes.append(("left out", ""))
        for name, changed in changes:
            whole = "\n".join([*lines[:number], changed, *lines[number + 1 :]])
            found.append(Mutant(file, number + 1, name, line, changed, whole))
    return found


SQL: Sequence[Rule] = (
    _rule("< for <=", r"<=", "<"),
    _rule("<= for <", r"(?<![<>])<(?![=>])", "<="),
    _rule("> for >=", r">=", ">"),
    _rule(">= for >", r"(?<![<>])>(?!=)", ">="),
    _rule("<> for =", r"(?<![<>:]) = (?=[?%a-z])", " <> "),
    _rule("OR for AND", r"\bAND\b", "OR"),
    _rule("descending", r"\bORDER BY \w+(, \w+)*", r"\g<0> DESC"),
    _rule("no order", r"\bORDER BY \w+(, \w+)*", ""),
    _rule("the condition left out", r"\bWHERE .*?(?= ORDER| LIMIT| ON |\)|$)", ""),
    _rule("one part of a union", r"UNION ALL", "EXCEPT"),
    _rule("one more", r"(?<![\w.$'\"])(\d+)(?![\w.'\"])", ""),
    _rule("- for +", r" \+ ", " - "),
    _rule("DO NOTHING", r"DO UPDATE SET .*", "DO NOTHING"),
    _rule("nothing is deleted", r"^(\s*)DELETE FROM (\S+)( AS \w+)? WHERE ", r"\1DELETE FROM \2\3 WHERE false AND "),
    _rule("a constant", r"(?<=^SELECT )bytes(?= FROM)", "0"),
    _rule("half of it", r"(?<=^SELECT )bytes(?= FROM)", "bytes / 2"),
    _rule("another order of columns", r"\b(key), (value|expires)\b", r"\2, \1"),
    _rule("not replaced", r"^REPLACE", "INSERT OR IGNORE"),
    _rule(
        "nothing is written",
        r"^REPLACE INTO (\w+) VALUES \(\?, \?, \?\)",
        r"REPLACE INTO \1 SELECT ?, ?, ? WHERE false",
    ),
    _rule("a little later", r"VALUES \(\?, \?, \?\)$", "VALUES (?, ?, ? + 1)"),
)

POSTGRES: Sequence[Rule] = (
    *SQL,
    _rule("<> for =", r" = (?=ANY)", " <> "),
    _rule("everything", r"\bWHERE ", "WHERE true OR "),
    _rule("nothing", r"\bWHERE ", "WHERE false AND "),
    _rule("nothing is found", r"^SELECT (?!.*WHERE).*$", r"\g<0> LIMIT 0"),
    _rule("NOT left out", r"\bNOT ", ""),
    _rule("no row is locked", r" FOR UPDATE( OF \w+)?( SKIP LOCKED)?", ""),
    _rule("a locked row is waited for", r" SKIP LOCKED", ""),
    _rule("set for the whole session", r", true\)", ", false)"),
    _rule("locked for the whole session", r"_xact_lock", "_lock"),
    _rule("a shared lock", r"_lock\(", "_lock_shared("),
    _rule("what stood there is kept", r"=excluded\.", "=old."),
    _rule("nothing is written", r"VALUES \((.*)\)(?= ON|$)", r"SELECT \1 WHERE false"),
    _rule("half of the time", r"(?<=VALUES \(%s, )%s(?=\)$)", "%s / 2"),
    _rule("a conflict is passed over", r"VALUES \(.*\)$", r"\g<0> ON CONFLICT DO NOTHING"),
    _rule("a conflict is an error", r" ON CONFLICT DO NOTHING", ""),
    _rule("another number", r"(?<=^SELECT )version(?= FROM)", "version + 1"),
    _rule("a lower number", r"(?<=^SELECT )version(?= FROM)", "version - 1"),
    _rule("a little earlier", r"(?<=key, value, )expires(?=(, [01])? FROM)", "expires - 1"),
)


def of_sql(name: str, text: str, rules: Sequence[Rule] = SQL) -> list[Mutant]:
    """All mutants of an SQL statement."""
    found = []
    for rule, pattern, instead in rules:
        for match in pattern.finditer(text):
            new = match.expand(instead) if rule != "one more" else str(int(match[0]) + 1)
            changed = text[: match.start()] + new + text[match.end() :]
            if changed != text:
                found.append(Mutant(name, 1, rule, text, changed, changed))
    return found


def sample(mutants: Sequence[Mutant], most: int) -> Iterator[Mutant]:
    """So many of them at most, evenly over the whole, always the same."""
    step = max(1, len(mutants) / most)
    place = 0.0
    while place < len(mutants):
        yield mutants[int(place)]
        place += step


def survivors(found: Sequence[Mutant], changes_nothing: Sequence[tuple[str, str]]) -> str:
    """Those that were not noticed, one a line, without those that a pattern says to change nothing."""
    return "\n".join(
        str(mutant) for mutant in found if not any(re.search(pattern, str(mutant)) for pattern, _ in changes_nothing)
    )
