"""What the proxy says about a job's directories: what must not be saved, and what is only good to know."""

from __future__ import annotations

from dataclasses import dataclass, field

from backupsite.models import User
from jobs import questions
from jobs.models import Job
from repositories.models import Repository


@dataclass
class Answer:
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    silent: str = ""  # what to do about a proxy that did not answer


def check_sources(job: Job, by: User, timeout_seconds: float) -> Answer:
    """Ask the job's proxy about its sources, and about them together with every repository."""
    repositories = {job.repository.path, *Repository.objects.values_list("path", flat=True)}
    params = {"paths": job.sources, "repository_paths": sorted(repositories)}
    try:
        problems = questions.ask(job.proxy, "check_sources", params, by, timeout_seconds)["problems"]
    except (questions.NoAnswer, questions.Refused) as error:
        return Answer(silent=str(error))
    return Answer(
        errors=[problem["message"] for problem in problems if problem["severity"] == "error"],
        notes=[problem["message"] for problem in problems if problem["severity"] != "error"],
    )
