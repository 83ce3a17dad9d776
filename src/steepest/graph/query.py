"""A question in the notation of textbooks: ``recovered | do(treatment=A), stone=large``.

    question   := column "|" condition ("," condition)*    or a column alone
    condition  := "do(" settings ")"                       doing: the column is set, its causes are cut
                | column "=" value                         seeing: the column is found to be so
    settings   := column "=" value ("|" value)* ("," ...)  several values of one column: compare them

Names and values with spaces or signs of their own go in quotation marks. An optional ``P( ... )`` around it all is
taken off.
"""

import re
from dataclasses import dataclass

from steepest.errors import QueryError

_TOKEN = re.compile(r'\s*(?:(?P<quoted>"[^"]*"|\'[^\']*\')|(?P<word>[^\s|,=()"\']+)|(?P<sign>[|,=()]))')
_FORM = 'write it like "recovered | do(treatment=A), stone=large"'


@dataclass(frozen=True)
class Query:
    """Who is asked for, what is set, what is seen.

    Attributes:
        target: the column whose distribution is asked for.
        do: column -> the values it is set to, one after the other (several: the answers are compared).
        given: column -> the value it is found to have.
    """

    target: str
    do: dict[str, tuple[str, ...]]
    given: dict[str, str]

    def __str__(self) -> str:
        parts = [f"do({name}={'|'.join(values)})" for name, values in self.do.items()]
        parts += [f"{name}={value}" for name, value in self.given.items()]
        return f"{self.target} | {', '.join(parts)}" if parts else self.target


def as_asked(name: str) -> str:
    """A name or value as a question spells it: in single quotes where it is no single word.

    >>> as_asked("smoker"), as_asked("birth weight")
    ('smoker', "'birth weight'")
    """
    match = _TOKEN.fullmatch(name)
    return name if match and match["word"] == name else f"'{name}'"


def read_query(text: str) -> Query:
    """Read a question.

    Raises:
        QueryError: it does not parse (a caret stands under the place), or a column is on both sides of it.

    >>> read_query("recovered | do(treatment=A|B), stone=large")
    Query(target='recovered', do={'treatment': ('A', 'B')}, given={'stone': 'large'})
    >>> print(read_query("P(lung | smoke = yes)"))
    lung | smoke=yes
    """
    return _Reader(text).read()


class _Reader:
    """Recursive descent over the tokens of one question."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        at = 0
        while at < len(text.rstrip()):
            match = _TOKEN.match(text, at)
            if match is None:
                begin = at + len(text[at:]) - len(text[at:].lstrip())
                raise self._error(begin, f"{text[begin]} is not closed")
            kind = match.lastgroup or ""
            token = match[kind][1:-1] if kind == "quoted" else match[kind]
            self.tokens.append((kind, token, match.start(kind)))
            at = match.end()
        self.at = 0

    def read(self) -> Query:
        wrapped = self._peek("P", "p") and self._sign_at(1) == "("
        if wrapped:
            self.at += 2
        target = self._name("the column that is asked for")
        do: dict[str, tuple[str, ...]] = {}
        given: dict[str, str] = {}
        if self._sign() == "|":
            self.at += 1
            self._condition(target, do, given)
            while self._sign() == ",":
                self.at += 1
                self._condition(target, do, given)
        if wrapped:
            self._expect(")")
        if self.at < len(self.tokens):
            raise self._error(self.tokens[self.at][2], 'expected "|", "," or the end here')
        return Query(target, do, given)

    def _condition(self, target: str, do: dict[str, tuple[str, ...]], given: dict[str, str]) -> None:
        if self._peek("do") and self._sign_at(1) == "(":
            self.at += 2
            while True:
                name, begin = self._new_name(target, do, given)
                self._expect("=")
                values = [self._name("a value")]
                while self._sign() == "|":
                    self.at += 1
                    values.append(self._name("a value"))
                if len(values) > 1 and any(len(each) > 1 for each in do.values()):
                    raise self._error(begin, "only one column can have several values to compare")
                do[name] = tuple(values)
                if self._sign() != ",":
                    break
                self.at += 1
            self._expect(")")
        else:
            name, _ = self._new_name(target, do, given)
            self._expect("=")
            given[name] = self._name("a value")

    def _new_name(
        self, target: str, do: dict[str, tuple[str, ...]], given: dict[str, str]
    ) -> tuple[str, int]:
        begin = self.tokens[self.at][2] if self.at < len(self.tokens) else len(self.text)
        name = self._name("a column")
        if name == target:
            raise self._error(begin, f'"{name}" is on both sides: it is asked for, so it cannot be known')
        if name in do or name in given:
            raise self._error(begin, f'"{name}" stands twice among the conditions')
        return name, begin

    def _name(self, what: str) -> str:
        if self.at < len(self.tokens) and self.tokens[self.at][0] != "sign":
            self.at += 1
            return self.tokens[self.at - 1][1]
        begin = self.tokens[self.at][2] if self.at < len(self.tokens) else len(self.text.rstrip())
        raise self._error(begin, f"expected {what} here")

    def _expect(self, sign: str) -> None:
        if self._sign() != sign:
            begin = self.tokens[self.at][2] if self.at < len(self.tokens) else len(self.text.rstrip())
            raise self._error(begin, f'expected "{sign}" here')
        self.at += 1

    def _sign(self) -> str:
        return self._sign_at(0)

    def _sign_at(self, ahead: int) -> str:
        at = self.at + ahead
        return self.tokens[at][1] if at < len(self.tokens) and self.tokens[at][0] == "sign" else ""

    def _peek(self, *words: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at][:2] in [("word", word) for word in words]

    def _error(self, at: int, what: str) -> QueryError:
        return QueryError(f"cannot read the question: {what}; {_FORM}\n    {self.text}\n    {' ' * at}^")
