"""Node names as Slurm writes them."""

import pytest

from tokenstorm.hostlist import expand


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ("n1",)),
        ("n[1-3]", ("n1", "n2", "n3")),
        ("n[1,3],login1", ("n1", "n3", "login1")),
        ("mel[0008-0011]", ("mel0008", "mel0009", "mel0010", "mel0011")),
        ("r[1-2]c[01-02],x", ("r1c01", "r1c02", "r2c01", "r2c02", "x")),
        ("n[1-2]-ib", ("n1-ib", "n2-ib")),
        ("n[1-3,7],gpu-a[01-02]n[1-2]", ("n1", "n2", "n3", "n7", *(f"gpu-a0{a}n{n}" for a in (1, 2) for n in (1, 2)))),
        ("n[08-10]", ("n08", "n09", "n10")),
        ("n[a-b,3]", ("na-b", "n3")),
        ("n[]", ("n",)),
        ("(null)", ()),
        ("None assigned", ()),
        ("", ()),
    ],
)
def test_a_list_of_nodes_is_its_names(text: str, names: tuple[str, ...]) -> None:
    assert expand(text) == names
