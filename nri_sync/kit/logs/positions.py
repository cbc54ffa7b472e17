"""Finds secrets that no name announces: by their position in a command or a URL, or by their form.

All rules are in this module, in three tables: :data:`COMMANDS` (options of known programs), :data:`URLS` and
:data:`FORMS`. :class:`nri_sync.kit.logs.masking.Mask` applies them beside its names. Pure; the time grows linearly
with the text.

The same option is a password in one program and a port in another: ``mysql -phunter2``, ``docker run -p8080:80``.
So short options count only after a program of the table. The rules of ``_ALWAYS`` apply to all programs; they
look at the form of the value, too.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from typing import Callable, NamedTuple, Optional

__all__ = ["COMMANDS", "FORMS", "SPACE", "SWITCH", "URLS", "Command", "Hides", "hidden_spans"]

Hides = Callable[[str], bool]
"""Whether a name's value is a secret."""

# Where the secret begins in the value of an option; None if the value has none.
_Begin = Callable[[str, Hides], Optional[int]]


class Rule(NamedTuple):
    """How an option takes its secret."""

    begin: _Begin
    #: In the same word: ``-phunter2``.
    attached: bool = True
    #: In the next word: ``-p hunter2``.
    separate: bool = True


class Program(NamedTuple):
    """The options of some programs."""

    #: Patterns of a shell, with spaces between them.
    names: str
    options: dict[str, Rule]
    #: Short options without a value. They may precede another one in the same word: ``curl -su user:password``.
    flags: str = ""


#: A value that is no secret, whatever its name is: --client-cert-auth=true.
SWITCH = re.compile(r"(?:true|false)\Z", re.IGNORECASE)

#: A text with a space may be a shell's command.
SPACE = re.compile(r"\s")

# 80:80, 127.0.0.1:8080:80/tcp, [::1]:80:80, 8000-8010:80
_PORTS = re.compile(r"(?:[\d.]+:|\[[\da-fA-F:.]*\]:)?[\d-]*:[\d-]+(?:/(?:tcp|udp|sctp))?\Z")
_QUANTITY = re.compile(r"\d+[A-Za-z]{0,3}\Z")
# Each search for a letter stops at the first one. Otherwise the time would grow with the square of the length.
_LIKELY = re.compile(
    r"(?=[A-Z]|[^\dA-Za-z]*[A-Za-z][^\d]*\d|\d+[^\dA-Za-z]*[A-Za-z])[^\s/:=,]{6,}\Z"
)


def _unless_switch(value: str, _hides: Hides) -> int | None:
    return None if SWITCH.match(value) else 0


def _unless_ports(value: str, _hides: Hides) -> int | None:
    return None if _PORTS.match(value) else 0


def _likely(value: str, _hides: Hides) -> int | None:
    """A text with letters and digits, or one that begins with a capital letter: the form of passwords.

    Words (``-print``), numbers, quantities, ports and paths stay readable.
    """
    return 0 if _LIKELY.match(value) and not _QUANTITY.match(value) else None


def _after(separator: str) -> _Begin:
    """A user and a password; ``user:`` without a password is a token."""

    def begin(value: str, _hides: Hides) -> int | None:
        user, found, password = value.partition(separator)
        if not found or password.startswith("//"):  # a URL
            return None
        return len(user) + 1 if password.strip("\"'") else 0

    return begin


_USER = re.compile(r"[\"']?[\w${][^:\s]*:")


def _login(value: str, hides: Hides) -> int | None:
    """As ``_after(":")``, except for ids and identities: ``1000:1000``, ``root:0``, ``system:node:a``."""
    _, _, password = value.partition(":")
    if password.isdigit() or value.startswith("system:") or not _USER.match(value):
        return None
    return _after(":")(value, hides)


def _cookie(value: str, _hides: Hides) -> int | None:
    return 0 if "=" in value else None  # otherwise the name of a file


def _header(value: str, hides: Hides) -> int | None:
    name, colon, text = value.partition(":")
    if not colon or not text or not hides(name.strip("\"'")):
        return None
    return len(name) + 1 + len(text) - len(text.lstrip())


def _none(_value: str, _hides: Hides) -> None:
    return None


_NAMED = Rule(_unless_switch)
_SECRET = Rule(_unless_ports)
# The next word has another meaning: mysql -p DATABASE
_ATTACHED = Rule(_unless_ports, separate=False)
_SEPARATE = Rule(_unless_ports, attached=False)
_PAIR = Rule(_after(":"))
_PERCENT = Rule(_after("%"))
_COMMA = Rule(_after(","))
_PUBLIC = Rule(_none)

# For any program: a wrapper may run one of the table, and pass its options on.
_ALWAYS: dict[str, Rule] = {
    "-u": Rule(_login, attached=False), "--user": Rule(_login), "--userpwd": Rule(_login),
    "--proxy-user": Rule(_login), "-p": Rule(_likely, separate=False),
    "-H": Rule(_header), "--header": Rule(_header),
}  # fmt: skip

#: The first row whose pattern matches a word applies to the rest of the command.
COMMANDS: tuple[Program, ...] = (
    Program("mysql* mariadb* mariabackup xtrabackup mytop", {"-p": _ATTACHED, "--password1": _ATTACHED}),
    Program("mongo mongosh mongodump mongorestore mongoimport mongoexport mongostat mongotop mongofiles mongoperf",
            {"-p": _SECRET}),
    Program("redis-cli redis-benchmark valkey-cli valkey-benchmark keydb-cli", {"-a": _SEPARATE}),
    Program("cqlsh cypher-shell beeline rabbitmqadmin", {"-p": _SECRET}),
    Program("sqlcmd bcp isql osql tsql mosquitto_pub mosquitto_sub mosquitto_rr ipmitool zip zipcloak unzip",
            {"-P": _SECRET}),
    Program("sshpass", {"-p": _SECRET}),
    Program("useradd usermod", {"-p": _SECRET}),
    # "docker login -p", "helm registry login -p", "az login -p"
    Program("login", {"-p": _SECRET}),
    Program("curl", {"-u": _PAIR, "--user": _PAIR, "-U": _PAIR, "--proxy-user": _PAIR, "-b": Rule(_cookie),
                     "--cookie": Rule(_cookie), "-E": _PAIR, "--cert": _PAIR, "--proxy-cert": _PAIR},
            flags="#012346fgGiIjJklLMnNOpqRsSvVZ"),
    Program("http https httpie xh xhs hey siege", {"-a": Rule(_login), "--auth": Rule(_login)}),
    Program("ab", {"-A": _PAIR, "-P": _PAIR}),
    Program("lftp", {"-u": _COMMA, "--user": _COMMA}),
    # Their values have forms of their own, "pass:hunter2" and "file:/key"; see FORMS.
    Program("openssl",
            {"-k": _SEPARATE, "-K": _SEPARATE, "-pass": _PUBLIC, "-passin": _PUBLIC, "-passout": _PUBLIC}),
    Program("ldappasswd", {"-w": _SECRET, "-a": _SECRET, "-s": _SECRET}),
    Program("ldap*", {"-w": _SECRET}),
    Program("snmpd snmptrapd", {}),  # -c FILE
    Program("snmp*", {"-A": _SECRET, "-X": _SECRET, "-c": _SECRET}),
    Program("smbclient smbget smbcacls smbcquotas smbtree rpcclient net nmblookup",
            {"-U": _PERCENT, "--user": _PERCENT}),
    Program("7z 7za 7zr 7zz", {"-p": _ATTACHED}),
    Program("rar unrar", {"-p": _ATTACHED, "-hp": _ATTACHED}),
    Program("ssh-keygen", {"-N": _SEPARATE, "-P": _SEPARATE}),
    # Their users and groups have names: "docker run -u node:node".
    Program("docker podman nerdctl docker-compose start-stop-daemon chpst", {"-u": _PUBLIC, "--user": _PUBLIC}),
)  # fmt: skip

#: The first group is the secret. A user without a password is a token, except in SSH's schemes, which have keys.
#: A digest follows the @ in docker-pullable://nginx:1@sha256:0123.
URLS: tuple[re.Pattern[str], ...] = (
    # The token is the user: https://TOKEN:x-oauth-basic@github.com
    re.compile(r"://([^/@\s:]+:x-oauth-basic)@"),
    re.compile(r"://[^/@\s:]*:([^/\s]+)@(?!sha\d{3}:)"),
    re.compile(r"(?<!ssh)(?<!sftp)(?<!scp)(?<!rsync)://([^/?#@\s:\"'<>,;]+):?@(?!sha\d{3}:)"),
)

#: The first group is the secret. The lookbehind keeps the search linear.
FORMS: tuple[re.Pattern[str], ...] = (
    re.compile(
        r"(?<![\w-])("
        r"gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|gl[a-z]{1,8}-[\w-]{20,}|xox[a-z]-[\w-]{10,}|xapp-[\w-]{10,}"
        r"|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{35}|ya29\.[\w.-]{20,}|[sr]k_(?:live|test)_[A-Za-z0-9]{10,}"
        r"|whsec_[A-Za-z0-9]{20,}|sk-(?:(?:proj|ant|svcacct|or)-[\w-]{20,}|[A-Za-z0-9]{32,})|hv[bsr]\.[\w-]{20,}"
        r"|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{40,}|do[opr]_v1_[a-f0-9]{40,}|dckr_(?:pat|oat)_[\w-]{20,}|hf_[A-Za-z0-9]{30,}"
        r"|SG\.[\w-]{16,}\.[\w-]{16,}|AGE-SECRET-KEY-1[A-Z0-9]{50,}|sha256~[\w-]{40,}"
        r"|eyJ[\w-]{5,}\.eyJ[\w-]{5,}(?:\.[\w-]*)?"
        r")"
    ),
    # openssl -passin pass:hunter2
    re.compile(r"(?<![\w.:/-])pass:([^\s\"']+)"),
    # The header and the end of a key in PEM stay.
    re.compile(r"(?s)-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(.+?)(?=-----END|\Z)"),
)  # fmt: skip

_PROGRAM_MAX = 64
# The rules whose value has the form of a port, if the program is one after all.
_GUESSED = (_SECRET, _ATTACHED)
_PORT = re.compile(r"\d{1,5}\Z")
# The words before a program. The first word of a command has none before.
_BEFORE_A_PROGRAM = frozenset((
    "", "--", "exec", "sudo", "env", "time", "nohup", "then", "do", "else", "if", "while", "!", "(", "{",
))  # fmt: skip
_BASENAME = re.compile(r"[^/=(`\"']*\Z")
_ROWS = re.compile(
    "|".join(f"({'|'.join(map(fnmatch.translate, program.names.split()))})" for program in COMMANDS)
)
# A word of a shell's command, with its quoted parts; or the end of the command, or a newline after a backslash.
_WORDS = re.compile(r"([;&|\n])|\\\n|(?:\"[^\"]*\"?|'[^']*'?|[^\s\"';&|])+")


class Command:
    """Follows the words of one command, and finds the secrets among them."""

    def __init__(self, hides: Hides) -> None:
        self._hides = hides
        self._rules = dict(_ALWAYS)
        self._flags = ""
        self._is_wrapper = False
        # The last word, without the name of an option; and whether the last program was in the place of a program.
        self._previous = ""
        self._is_run = False
        # The rule of the last option if its value is the next word.
        self._next: Rule | None = None

    def secret_in(self, word: str) -> int | None:
        """Return the index at which a secret begins in the next word, or None. The secret extends to its end."""
        rule, self._next = self._next, None
        if word.startswith("-"):
            self._previous = word if word == "--" else "-"
            return self._in_option(word)
        if rule is not None:
            return self._begin(rule, word)
        self._note_program(word)
        return None

    def _begin(self, rule: Rule, value: str) -> int | None:
        # A program's name may be that of a host: "wait-for mongo -p 27017".
        if rule in _GUESSED and not self._is_run and _PORT.match(value):
            return None
        return rule.begin(value, self._hides)

    def _note_program(self, word: str) -> None:
        previous, self._previous = self._previous, word
        if self._is_wrapper:
            # The options that follow belong to the program that sshpass runs.
            self._rules = dict(_ALWAYS)
            self._is_wrapper = False
        found = _BASENAME.search(word[-_PROGRAM_MAX:])
        row = _ROWS.match(found[0]) if found is not None and "://" not in word else None
        if row is not None and row.lastindex is not None:
            program = COMMANDS[row.lastindex - 1]
            self._rules.update(program.options)
            self._flags = program.flags or self._flags
            self._is_wrapper = program.names == "sshpass"
            self._is_run = "/" in word or previous in _BEFORE_A_PROGRAM or "=" in previous

    def _in_option(self, word: str) -> int | None:
        name, equals, value = word.partition("=")
        rule = self._rules.get(name)
        if rule is None and self._hides(name.lstrip("-")):
            rule = _NAMED
        if rule is None:
            if equals:
                self._note_program(value)
            return None if word.startswith("--") else self._in_short(word)
        if not equals:
            self._next = rule if rule.separate else None
            return None
        begin = self._begin(rule, value) if value else None
        return None if begin is None else len(name) + 1 + begin

    def _in_short(self, word: str) -> int | None:
        """Short options in one word: flags, and an option with its value attached."""
        index = len(word) - len(word[1:].lstrip(self._flags)) if self._flags else 1
        for length in (2, 1):
            rule = self._rules.get("-" + word[index : index + length])
            value = word[index + length :]
            if rule is None or len(word) < index + length:
                continue
            if not value:
                self._next = rule if rule.separate else None
            elif rule.attached:
                begin = self._begin(rule, value)
                return None if begin is None else index + length + begin
        return None


def hidden_spans(text: str, hides: Hides) -> Iterator[tuple[int, int]]:
    """Yield the begin and the end of each secret that a command in the text has, in order."""
    command = Command(hides)
    for found in _WORDS.finditer(text) if "-" in text else ():
        word, start = found[0], found.start()
        if found[1]:
            command = Command(hides)
            continue
        if word == "\\\n":
            continue
        quote = word[0] if word[0] in "\"'" and word[-1] == word[0] and len(word) > 1 else ""
        inner = word[1:-1] if quote and quote not in word[1:-1] else word
        start += len(word) != len(inner)
        begin = command.secret_in(inner)
        if begin is not None:
            # Quotes inside of the word stay, too: -p'hunter2', --user="me:hunter2".
            secret = inner[begin:]
            opening = secret[:1] in ("'", '"')
            closing = len(secret) > 1 and secret[-1] in "\"'"
            yield start + begin + opening, start + len(inner) - closing
        elif inner is not word and SPACE.search(inner):
            for first, last in hidden_spans(inner, hides):
                yield start + first, start + last
