"""What happens when: proxies, jobs, the chains they write, due times, sessions and their logs, questions to proxies."""

from jobs.models.due_times import DueState, DueTime
from jobs.models.jobs import Encryption, Job, JobChain, JobChainState, JobQuerySet, Level, Misfire, ScheduleKind
from jobs.models.proxies import Proxy
from jobs.models.questions import Question, QuestionState
from jobs.models.sessions import (
    ACTIVE,
    DONE_WELL,
    LogLevel,
    LogLine,
    Pin,
    Session,
    SessionKind,
    SessionProgress,
    SessionQuerySet,
    State,
)

__all__ = [
    "ACTIVE",
    "DONE_WELL",
    "DueState",
    "DueTime",
    "Encryption",
    "Job",
    "JobChain",
    "JobChainState",
    "JobQuerySet",
    "Level",
    "LogLevel",
    "LogLine",
    "Misfire",
    "Pin",
    "Proxy",
    "Question",
    "QuestionState",
    "ScheduleKind",
    "Session",
    "SessionKind",
    "SessionProgress",
    "SessionQuerySet",
    "State",
]
