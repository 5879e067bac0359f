from collections.abc import Callable
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from hybridsearch.search_spaces import catalog, placement, size
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.canonical import canonical_json, content_hash

SpaceOf = Callable[..., Space]


def test_the_listing_holds_each_architecture_once(small: Space) -> None:
    assert small.listing is not None
    assert len({content_hash(architecture) for architecture in small.listing}) == len(small.listing) == small.size()
    assert all(small.violations(architecture) == [] for architecture in small.listing)


def test_the_bound_counts_every_plan(small: Space) -> None:
    assert size.upper_bound(small) == sum(1 for _ in size.plans(small)) >= small.size()


def test_free_stacks_are_counted_with_their_options(space_of: SpaceOf) -> None:
    # Two entries without options and one with two: stacks that hold it count twice.
    expected = sum(2 if "gdn" in s else 1 for d in (1, 2, 3) for s in product(("full", "gdn", "swa"), repeat=d))
    assert space_of(feed_forward={"ratio": 1}).size() == expected
    assert space_of(feed_forward={"ratio": [1, 2]}).size() == 2 * expected


def test_patterns_are_counted_without_their_doubles(space_of: SpaceOf) -> None:
    rule = {"ratio": ["1:1", "2:2", "0:1"], "placement": ["uniform", "last", "scattered"], "linear": ["gdn", "swa"]}
    space = space_of(depth=4, layers={"pattern": rule}, feed_forward={"ratio": 1})
    # 6 sets of 2 layers for (gdn with 2 options, swa), and one purely full stack.
    assert space.size() == 6 * (2 + 1) + 1


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from(["1:1", "3:1", "1:0", "0:1", "1:2"]), min_size=1, unique=True),
    st.lists(st.sampled_from(placement.PLACEMENTS), min_size=1, unique=True),
    st.lists(st.sampled_from(["full", "gdn", "swa"]), unique=True),
    st.lists(st.integers(1, 4), min_size=1, max_size=2, unique=True),
)
def test_the_bound_is_exact_without_constraints(
    ratio: list[str], place: list[str], free: list[str], depth: list[int]
) -> None:
    menu = {
        "full": {"head_dim": 8},
        "gdn": {"kind": "gated_delta", "heads": 2, "head_dim": [4, 8]},
        "swa": {"kind": "sliding", "head_dim": 8, "window": [4, 8]},
    }
    rule = {"ratio": ratio, "placement": place, "linear": ["gdn", "swa"], "full": "full"}
    layers = {"free": free, "pattern": rule}
    space = catalog.load({"depth": depth, "width": 16, "mixers": menu, "layers": layers, "feed_forward": {"width": 8}})
    plans = list(size.plans(space))
    assert size.upper_bound(space) == len(plans) == space.size()
    assert len({canonical_json(architecture) for architecture in space.listing or ()}) == len(plans)


def test_equal_choices_are_one_architecture(space_of: SpaceOf) -> None:
    mixers = {"full": {"heads": ["fill", 2, 4], "head_dim": 8}, "swa": {"kind": "sliding", "head_dim": 8, "window": 8}}
    space = space_of(mixers=mixers, depth=1, layers={"free": ["full"]})
    assert size.upper_bound(space) == 3
    assert size.count(space) == size.Size(2, True)  # fill means 2 heads at width 16


def test_large_spaces_are_bounded() -> None:
    found = size.count(catalog.load("layers"))
    assert not found.exact
    assert found.architectures > 5**12
