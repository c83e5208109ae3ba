"""Writes ntxent.npz: optax's NT-Xent and its gradient, where optax and jax are installed.

optax.losses.ntxent takes embeddings and a label for each; two rows of one label are each other's positive.
The file is committed, so that the tests need neither.
"""

import hashlib
from pathlib import Path

import jax
import numpy as np
import optax

jax.config.update("jax_enable_x64", True)
CASES = ((2, 3, 0.5), (8, 5, 0.07), (33, 16, 0.2), (64, 7, 1.0))


def main() -> None:
    values: dict[str, np.ndarray] = {
        "versions": np.array([f"optax {optax.__version__}", f"jax {jax.__version__}"]),
        "script": np.array(hashlib.sha256(Path(__file__).read_bytes()).hexdigest()),
        "temperatures": np.array([temperature for *_, temperature in CASES]),
    }
    for number, (pairs, size, temperature) in enumerate(CASES):
        generator = np.random.default_rng(number)
        embeddings = generator.normal(size=(2 * pairs, size))
        labels = np.tile(np.arange(pairs), 2)

        def loss(rows: jax.Array, labels: np.ndarray = labels, temperature: float = temperature) -> jax.Array:
            return optax.losses.ntxent(rows, labels, temperature)

        values[f"embeddings{number}"] = embeddings
        values[f"loss{number}"] = np.asarray(loss(embeddings))
        values[f"gradient{number}"] = np.asarray(jax.grad(loss)(embeddings))
    np.savez_compressed(Path(__file__).with_name("ntxent.npz"), **values)


if __name__ == "__main__":
    main()
