"""The longest tests first, one on each worker, so that in the end no worker waits for another."""

from __future__ import annotations

import pytest

# By the time that they take, on a machine that does nothing else 20 to 90 s, most of it in waiting.
LONGEST = (
    "test_ten_breaks_in_one_transfer",
    "test_a_minute_of_darkness_with_more_patience",
    "test_the_path_becomes_narrow_and_wide_again",
    "test_the_readmes_tests_run_in_an_empty_project_with_the_installed_wheel",
    "test_a_side_that_does_not_come_back_is_given_up_in_words",
    "test_each_kind_of_router_is_known_and_the_table_fits_it",
    "test_programs_of_others_say_of_our_answers_what_the_profile_says",
    "test_natdiscovery_says_what_the_profile_says",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Only of what is left to be run. `--dist worksteal` begins with one piece of the list for each worker."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    longest = sorted((item for item in items if item.name in rank), key=lambda item: rank[item.name])
    others = [item for item in items if item.name not in rank]
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    ordered: list[pytest.Item] = []
    left = len(items)
    for number in range(workers):
        first = longest[number::workers]
        size = left // (workers - number)
        left -= size
        ordered += first
        more = max(0, size - len(first))
        ordered += others[:more]
        del others[:more]
    items[:] = [*ordered, *others]
