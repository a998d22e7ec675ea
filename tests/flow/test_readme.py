"""The SQL that the README shows runs, as the reader it speaks of."""

import re
from pathlib import Path

import pytest

from tests.flow.conftest import Running

pytestmark = pytest.mark.servers

README = Path(__file__).parents[2] / "README.md"
QUERIES = [
    query.strip()
    for block in re.findall(r"```sql\n(.*?)```", README.read_text(), re.DOTALL)
    for query in block.split(";")
    if query.strip()
]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.splitlines()[0][3:40])
def test_a_query_of_the_readme_runs(stack: Running, query: str) -> None:
    ran = stack.command("sql", "-", "--json", input=query)
    assert ran.returncode == 0, ran.stderr


def test_the_readme_has_queries() -> None:
    assert len(QUERIES) >= 5
