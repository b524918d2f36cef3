"""What the log of a run tells: how far it came, why it ended, how long it took."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

LOG_FILE = 'train.log'
FINISHED, EARLY, STOPPED, FAILED = 'finished', 'early stopping', 'stopped', 'failed'

_LINE = re.compile(r'(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) ([A-Z]+) (.*)')
_PROGRESS = re.compile(r'epoch \d+  iter (\d+)')
_LENGTH = re.compile(r'^Length: (\d+) iterations', re.MULTILINE)
_CONTINUED = re.compile(r'Continuing from .*, after iteration (\d+)\.')
_ENDS = (
    (re.compile(r'(?:Finished|Nothing to do): '), FINISHED),
    (re.compile(r'Early stopping: '), EARLY),
    (re.compile(r'Stopped by \S+ after iteration '), STOPPED),
)


@dataclass
class LogFindings:
    """What a log tells.

    Attributes:
        ending: ``finished``, ``early stopping``, ``stopped`` (by a signal) or ``failed``; None where it does not tell.
        sentence: why it ended, in the words of the log.
        iteration: the last one that the log names.
        total: how many iterations were asked for, the last time.
        continued: after which iterations the run was continued.
        seconds: from start to end of each session, added up.
        first: time of the first line; None without any.
        last: time of the last line.
        warnings: what the log warns of and the errors, with the time, each once; health findings are records, too, and
            left out.
        about: networks, data and length, as the log describes them.
    """

    ending: str | None = None
    sentence: str = ''
    iteration: int = 0
    total: int | None = None
    continued: list[int] = field(default_factory=list)
    seconds: float = 0.0
    first: datetime | None = None
    last: datetime | None = None
    warnings: list[tuple[datetime, str]] = field(default_factory=list)
    about: str = ''


def read_log(path: Path) -> LogFindings:
    """Return what a ``train.log`` tells; nothing where there is none."""
    findings = LogFindings()
    if not path.is_file():
        return findings
    started: datetime | None = None
    for time, level, message in _split(path.read_text(encoding='utf-8', errors='replace')):
        findings.first, findings.last = findings.first or time, time
        if _is_warning(level, message) and message not in [words for _, words in findings.warnings]:
            findings.warnings.append((time, message))
        if _take_start(findings, message):
            started = time
        if _take_progress(findings, level, message) and started is not None:
            findings.seconds += (time - started).total_seconds()
            started = time
    return findings


def _split(text: str) -> list[tuple[datetime, str, str]]:
    """Return time, level and words of each message, some of which have several lines."""
    messages: list[tuple[datetime, str, str]] = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        time = _read_time(match[1]) if match else None
        if match and time is not None:
            messages.append((time, match[2], match[3]))
        elif messages:
            time, level, message = messages[-1]
            messages[-1] = (time, level, f'{message}\n{line}')
    return messages


def _read_time(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, '%Y-%m-%d %H:%M:%S')
    except ValueError:
        return None


def _is_warning(level: str, message: str) -> bool:
    return level in ('WARNING', 'ERROR') and not message.startswith('Health, iter ')


def _take_start(findings: LogFindings, message: str) -> bool:
    """Take in a message about a start; return whether it is the one before the first step."""
    match = _CONTINUED.match(message)
    if match:
        findings.continued.append(int(match[1]))
    match = _LENGTH.search(message)
    if match:
        findings.total, findings.about = int(match[1]), message
        findings.ending, findings.sentence = None, ''
    return match is not None


def _take_progress(findings: LogFindings, level: str, message: str) -> bool:
    """Take in a message about a step, a validation or the end; return whether it is one."""
    progress = _PROGRESS.match(message)
    if progress:
        findings.iteration = int(progress[1])
        findings.ending, findings.sentence = None, ''
        return True
    ending = FAILED if level == 'ERROR' else next((kind for words, kind in _ENDS if words.match(message)), None)
    if ending is None:
        return False
    findings.ending, findings.sentence = ending, re.sub(r' Time: [\d:]+\.$', '', message)  # of the last session alone
    match = re.search(r'after iteration (\d+)', message)
    if match and ending == STOPPED:
        findings.iteration = int(match[1])
    return True
