"""The environment of measured processes asks for huge pages, and leaves the user's own choices alone."""

from __future__ import annotations

from harness.study.environments.huge_pages import TUNABLES, with_huge_pages


def test_a_plain_environment_gets_the_tunable() -> None:
    assert with_huge_pages({"PATH": "/bin"}) == {"PATH": "/bin", TUNABLES: "glibc.malloc.hugetlb=1"}


def test_other_tunables_stay() -> None:
    environ = with_huge_pages({TUNABLES: "glibc.malloc.arena_max=1"})
    assert environ[TUNABLES] == "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1"


def test_a_choice_of_the_user_stays() -> None:
    environ = {TUNABLES: "glibc.malloc.hugetlb=0"}
    assert with_huge_pages(environ) == environ
