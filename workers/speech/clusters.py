"""Which voice prints belong to one speaker: average linkage on cosine distance, in bounded memory. Pure.

The mean distance between two groups of unit vectors is one minus the product of their means, so a group is its sum and
its size, whatever its length. Hours of prints are joined block by block and then block with block, by the same
function; a recording within one block (over an hour) is clustered exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.44  # above 0.46 speakers merge at once, below 0.42 they split slowly
APART = 1.2  # the least distance of two tracks of one window: the segmentation model says they are two people
MOST = 3000  # groups compared at once: 36 MB for the distances
MOST_SPEAKERS = 64
LEAST_S = 2.0  # seconds alone, summed over overlapping windows, that make a speaker

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Clusters:
    """Groups of prints.

    Attributes:
        sums: [K, D] float32, the sum of the unit vectors of each group.
        sizes: [K] float64, how many.
        seconds: [K] float64, of speech alone.
        apart: [K, K] float32, summed over pairs: what is added to their distance because they share a window.
    """

    sums: Matrix
    sizes: NDArray[np.float64]
    seconds: NDArray[np.float64]
    apart: Matrix

    def __len__(self) -> int:
        return len(self.sizes)


def centroids(
    prints: Matrix,
    places: NDArray[np.int64],
    seconds: NDArray[np.float64],
    *,
    threshold: float = THRESHOLD,
    most: int = MOST,
) -> Matrix:
    """One direction for each speaker.

    Args:
        prints: [N, D] float32, unit vectors in time order.
        places: [N, 2] the window that each is from and its track there; two tracks of a window are two people, which
            is held against joining them.
        seconds: [N] of speech alone behind each.
        threshold: cosine distance above which groups are not joined.
        most: groups compared at once; memory grows with its square.

    Returns:
        [K, D] float32 unit vectors, 1 <= K <= 64 where N > 0, who speaks most first.
    """
    if not len(prints):
        return prints
    held: list[Clusters] = []
    for block in np.array_split(np.arange(len(prints)), -(-len(prints) // most)):
        held.append(joined(_singles(prints[block], places[block], seconds[block]), threshold))
        if sum(map(len, held)) > most:
            held = [_largest(joined(_together(held), threshold), most // 2)]
    found = joined(_together(held), threshold) if len(held) > 1 else held[0]
    enough = int((found.seconds >= LEAST_S).sum())
    found = _largest(found, min(max(enough, 1), MOST_SPEAKERS))
    return found.sums / np.linalg.norm(found.sums, axis=1, keepdims=True)


def joined(clusters: Clusters, threshold: float) -> Clusters:
    """The groups that are left once none are nearer to each other than `threshold`."""
    names, labels = np.unique(linked(distances(clusters), clusters.sizes, threshold), return_inverse=True)
    member = np.zeros((len(names), len(clusters)), np.float32)
    member[labels, np.arange(len(clusters))] = 1.0
    return Clusters(
        member @ clusters.sums,
        member @ clusters.sizes,
        member @ clusters.seconds,
        (member @ clusters.apart @ member.T).astype(np.float32),
    )


def distances(clusters: Clusters) -> Matrix:
    """[K, K] mean cosine distance of the members of two groups."""
    means = (clusters.sums / clusters.sizes[:, None]).astype(np.float32)
    pairs = np.outer(clusters.sizes, clusters.sizes).astype(np.float32)
    return np.maximum(1.0 - means @ means.T + clusters.apart / pairs, 0.0)


def linked(distance: Matrix, sizes: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    """[K] for each group the one that stands for all it is joined with, by average linkage.

    Follows chains of nearest neighbours: two that are each other's nearest may be joined in any order, because a
    joined group is never nearer to a third than the nearer of its parts was.
    """
    near, size = distance.copy(), sizes.copy()
    np.fill_diagonal(near, np.inf)
    stands = np.arange(len(near))
    ended = np.zeros(len(near), bool)
    chain: list[int] = []
    for start in range(len(near)):
        chain = [] if ended[start] else [start]
        while chain:
            last = chain[-1]
            nearest = int(near[last].argmin())
            if not near[last, nearest] <= threshold:
                # Nothing will ever come nearer to it.
                chain.pop()
                ended[last] = True
                near[last] = near[:, last] = np.inf
            elif len(chain) > 1 and near[last, chain[-2]] <= near[last, nearest]:
                chain.pop()
                other = chain.pop()
                _join(near, size, other, last)
                stands[last], ended[last] = other, True
                if not chain and not ended[start]:
                    chain = [start]
            else:
                chain.append(nearest)
    while not np.array_equal(stands, stands[stands]):
        stands = stands[stands]
    return stands


def _join(near: Matrix, size: NDArray[np.float64], kept: int, gone: int) -> None:
    """Make `kept` the two groups together. Writes both in place."""
    total = size[kept] + size[gone]
    row = (size[kept] * near[kept] + size[gone] * near[gone]) / total
    row[kept] = np.inf
    near[kept] = near[:, kept] = row
    near[gone] = near[:, gone] = np.inf
    size[kept] = total


def _singles(prints: Matrix, places: NDArray[np.int64], seconds: NDArray[np.float64]) -> Clusters:
    apart = np.zeros((len(prints), len(prints)), np.float32)
    windows, tracks = places.T
    same = np.argwhere((windows[:, None] == windows) & (tracks[:, None] != tracks))
    for one, other in same:
        apart[one, other] = max(0.0, APART - (1.0 - float(prints[one] @ prints[other])))
    return Clusters(prints.astype(np.float32), np.ones(len(prints)), seconds.astype(np.float64), apart)


def _together(held: Sequence[Clusters]) -> Clusters:
    apart = np.zeros((sum(map(len, held)),) * 2, np.float32)
    at = 0
    for clusters in held:
        apart[at : at + len(clusters), at : at + len(clusters)] = clusters.apart
        at += len(clusters)
    return Clusters(
        np.concatenate([clusters.sums for clusters in held]),
        np.concatenate([clusters.sizes for clusters in held]),
        np.concatenate([clusters.seconds for clusters in held]),
        apart,
    )


def _largest(clusters: Clusters, count: int) -> Clusters:
    """Those with the most speech, longest first; the prints of the others go to whoever is nearest in the end."""
    order = np.argsort(-clusters.seconds, kind="stable")[:count]
    return Clusters(
        clusters.sums[order], clusters.sizes[order], clusters.seconds[order], clusters.apart[np.ix_(order, order)]
    )
