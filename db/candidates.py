"""What is asked and changed about candidates, inside a transaction of `Store`."""

from sqlalchemy import Connection, select

from hybridsearch.db.tables import CANDIDATES, STUDIES, TRIALS, AnyRow, insert_new
from hybridsearch.errors import InvalidSetting
from hybridsearch.trial import Candidate

SHORTEST_PREFIX = 4
COLUMNS = (
    CANDIDATES.c.hash,
    CANDIDATES.c.canonical,
    CANDIDATES.c.name.label("candidate_name"),
    CANDIDATES.c.parameters,
    TRIALS.c.state_bytes,
    TRIALS.c.flops_per_token,
)
"""What makes a `Candidate`, of the candidate and of the trial that counted it."""


def insert_candidate(connection: Connection, candidate: Candidate) -> bool:
    """Add a candidate unless its hash is there; whether it was added."""
    values = {
        "hash": candidate.hash,
        "canonical": candidate.canonical,
        "name": candidate.name,
        "parameters": candidate.parameters,
    }
    return insert_new(connection, CANDIDATES, values)


def find_candidate(connection: Connection, digits: str, study: str | None) -> Candidate:
    """The candidate whose hash begins with `digits`, as counted by its newest trial (of `study`, if given).

    Raises:
        InvalidSetting: too few digits, or no candidate, or more than one.
    """
    prefix = digits.strip().lower()
    if len(prefix) < SHORTEST_PREFIX or set(prefix) - set("0123456789abcdef"):
        raise InvalidSetting(
            f"`{digits}` is no candidate; give {SHORTEST_PREFIX} or more hexadecimal digits of its hash"
        )
    query = select(*COLUMNS).join(TRIALS, TRIALS.c.candidate_hash == CANDIDATES.c.hash)
    query = query.join(STUDIES, STUDIES.c.id == TRIALS.c.study_id).where(CANDIDATES.c.hash.startswith(prefix))
    if study is not None:
        query = query.where(STUDIES.c.name == study)
    newest_last = query.order_by(TRIALS.c.created, TRIALS.c.study_id, TRIALS.c.number)
    found = {row.hash: candidate_of(row) for row in connection.execute(newest_last)}
    if len(found) == 1:
        return found.popitem()[1]
    if found:
        listed = ", ".join(sorted(digest[: len(prefix) + 4] for digest in found)[:5])
        raise InvalidSetting(f"candidate `{digits}` is one of {len(found)} ({listed}); give more digits")
    where = f"study `{study}`" if study is not None else "this store"
    raise InvalidSetting(f"no candidate `{digits}` in {where}; list them with `hybridsearch pareto` or `status`")


def candidate_of(row: AnyRow) -> Candidate:
    """The record of a row that holds `COLUMNS`."""
    return Candidate(
        hash=row.hash,
        canonical=row.canonical,
        name=row.candidate_name,
        parameters=row.parameters,
        state_bytes=row.state_bytes,
        flops_per_token=row.flops_per_token,
    )
