"""A keyed permutation of 0 .. n-1 that is computed, not stored: O(1) memory for any n.

The numbers 0 .. a*b-1, with a = ceil(sqrt(n)) and b = ceil(n / a), are written as pairs (x, y) = (i mod a,
i div a). A Feistel network turns the pair in rounds, each of which can be undone, so the whole is one to one:

    even rounds   x <- (x + f_r(y)) mod a
    odd rounds    y <- (y + f_r(x)) mod b

What lands at or beyond n is sent through again until it lands inside ("cycle walking"), which keeps the map
one to one on 0 .. n-1. Since a*b exceeds n by less than a, a second pass is rare.
``f_r`` is the splitmix64 finaliser of the half, the key and the round.

Source: J. Black and P. Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002 (the generalised
Feistel cipher); G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
"""

import math

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

_ROUNDS = 12
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUND_KEYS = np.arange(1, _ROUNDS + 1, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95)
_LOW = np.uint64(0xFFFFFFFF)


def permute(indices: npt.ArrayLike, n: int, keys: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Where a keyed shuffle of ``0 .. n-1`` sends each index.

    Args:
        indices: whole numbers in ``0 .. n-1``, any shape.
        n: size of the permuted range, at least 1 and below 2^62.
        keys: one 64-bit key for all indices, or an array of the same shape with a key for each.

    >>> permute(range(10), 10, keys=1).tolist()
    [7, 6, 2, 3, 4, 9, 1, 0, 5, 8]
    """
    index = np.atleast_1d(np.asarray(indices, dtype=np.uint64))
    key = np.broadcast_to(np.asarray(keys, dtype=np.uint64), index.shape)
    a = math.isqrt(max(n - 1, 0)) + 1
    b = -(-n // a)
    result = _rounds(index, a, b, key)
    while (outside := result >= np.uint64(n)).any():
        result[outside] = _rounds(result[outside], a, b, key[outside])
    return result.astype(np.int64).reshape(np.shape(indices))


def mix(words: npt.ArrayLike) -> Words:
    """The splitmix64 finaliser: 64 bits in, 64 well-mixed bits out, one to one.

    >>> hex(int(mix([0x9E3779B97F4A7C15])[0]))  # the first output of the splitmix64 generator seeded with 0
    '0xe220a8397b1dcdaf'
    """
    z = np.array(words, dtype=np.uint64, ndmin=1)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def derive_keys(seed: int, counters: npt.ArrayLike) -> Words:
    """One 64-bit key per counter (an epoch number, say) from a seed.

    >>> derive_keys(0, [0, 1]).tolist() == derive_keys(1, [0, 1]).tolist()
    False
    """
    base = mix([seed % 2**64])
    return mix(base + (np.atleast_1d(np.asarray(counters, dtype=np.uint64)) + np.uint64(1)) * _GOLDEN)


def _rounds(index: Words, a: int, b: int, key: Words) -> Words:
    size_x, size_y = np.uint64(a), np.uint64(b)
    y, x = np.divmod(index, size_x)
    for number, round_key in enumerate(_ROUND_KEYS):
        if number % 2 == 0:
            x += _below(mix(y + (key ^ round_key)), size_x)
            x -= size_x * (x >= size_x)
        else:
            y += _below(mix(x + (key ^ round_key)), size_y)
            y -= size_y * (y >= size_y)
    return y * size_x + x


def _below(words: Words, bound: np.uint64) -> Words:
    """Scale 64 random bits to ``0 .. bound-1`` by the high half of a product (bound below 2^32)."""
    return ((words >> np.uint64(32)) & _LOW) * bound >> np.uint64(32)
