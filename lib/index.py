"""FeatureIndex: the content features of a voice's recordings, searchable; build, save, load, search (faiss)."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lib.errors import CheckpointError, ConfigError, MissingFileError
from lib.files import replacing
from lib.index_check import check_structure
from lib.typing import FloatArray, IntArray

if TYPE_CHECKING:
    import faiss

logger = logging.getLogger(__name__)

Doubles = npt.NDArray[np.float64]

NEIGHBOURS = 8  # stored features mixed for each frame
SCORE_FLOOR = 1e-12  # squared distance; an exact hit outweighs all other neighbours and divides by no zero
NPROBE = 1  # cells searched; stored in the file
VECTORS_PER_CELL = 39  # fewer would make faiss warn that cells are badly trained
ADD_BATCH = 8192  # vectors
SEARCH_FRAMES = 512  # at a time: each finds eight vectors
MAX_VECTORS = 200_000  # above, the vectors are replaced by ...
N_CENTRES = 10_000  # ... this many centres
KMEANS_ROUNDS = 4  # at 768 features these take some four minutes on two cores


def index_names(experiment: str, family: str, n_cells: int) -> tuple[str, str]:
    """File names of an experiment's index: (trained but empty, with vectors); the second is the one to use."""
    name = f"IVF{n_cells}_Flat_nprobe_{NPROBE}_{experiment}_{family}.index"
    return f"trained_{name}", f"added_{name}"


def count_cells(n_vectors: int) -> int:
    """The ecosystem's number of cells for so many vectors."""
    return max(1, min(int(16 * n_vectors**0.5), n_vectors // VECTORS_PER_CELL))


def neighbour_weights(scores: FloatArray, ids: IntArray) -> FloatArray:
    """Weights of neighbours from squared distances (N, K) and ids (N, K), -1 = none: (N, K), each row's sum 1.

    A row without any neighbour is all zero.
    """
    weights: Doubles = np.where(ids >= 0, 1.0 / np.maximum(scores.astype(np.float64), SCORE_FLOOR) ** 2, 0.0)
    total = weights.sum(axis=1, keepdims=True)
    normalised: FloatArray = (weights / np.where(total > 0, total, 1.0)).astype(np.float32)
    return normalised


class FeatureIndex:
    """Stored content features, found again by similarity. `width` features per vector, `len(index)` vectors."""

    def __init__(self, index: "faiss.IndexIVFFlat", name: str) -> None:
        self._index = index
        self.name = name
        self.width = int(index.d)
        self.n_cells = int(index.nlist)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def vectors(self) -> Iterator[FloatArray]:
        """The stored vectors in order, some (N, C) at a time."""
        for start in range(0, len(self), ADD_BATCH):
            block: FloatArray = self._index.reconstruct_n(start, min(ADD_BATCH, len(self) - start))
            yield block

    @classmethod
    def build(cls, features: Iterable[FloatArray], seed: int = 0, most: int | None = None) -> "FeatureIndex":
        """Build from arrays (N, C) of content features, taken one after the other; same input and seed, same index.

        At most MAX_VECTORS vectors are held: of more, a random choice of so many is reduced to N_CENTRES centres. With
        `most`, any number above it is reduced to so many centres, for a smaller file.
        """
        import faiss

        vectors, n_seen = _collect(features, seed)
        wanted = N_CENTRES if n_seen > MAX_VECTORS else len(vectors)
        wanted = min(wanted, most or wanted)
        if wanted < len(vectors):
            logger.info("%d vectors are reduced to %d centres", n_seen, wanted)
            vectors = _reduce(vectors, wanted, seed)
        n_cells = count_cells(len(vectors))
        index: Any = faiss.index_factory(vectors.shape[1], f"IVF{n_cells},Flat")
        index.nprobe = NPROBE
        index.cp.seed = seed
        index.cp.min_points_per_centroid = 1  # count_cells has seen to it, except below 39 vectors
        index.train(vectors)
        for start in range(0, len(vectors), ADD_BATCH):
            index.add(vectors[start : start + ADD_BATCH])
        return cls(index, "a new index")

    @classmethod
    def load(cls, path: Path) -> "FeatureIndex":
        """Read an index file. MissingFileError, or CheckpointError if it is damaged, foreign or empty."""
        import faiss

        try:
            with path.open("rb") as file:
                data = np.memmap(file, np.uint8, "r")  # so that what is no index is not read as a whole
        except FileNotFoundError as error:
            raise MissingFileError(path, "Give the path of an index file, or convert without one.") from error
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read as an index ({error.strerror or error}).") from error
        except ValueError as error:
            raise CheckpointError(f"{path} is empty, hence damaged. Build the index again.") from error
        check_structure(path, data.data)
        try:
            index: Any = faiss.deserialize_index(data)
        except (RuntimeError, MemoryError) as error:
            raise CheckpointError(f"{path} is not an index that can be read. Build it again.") from error
        loaded = cls(index, str(path))
        if not all(np.isfinite(block).all() for block in loaded.vectors()):
            raise CheckpointError(f"{path} contains numbers that are not finite. Build the index again.")
        return loaded

    def save(self, path: Path) -> None:
        """Write the index file atomically."""
        import faiss

        with replacing(path) as temporary:
            faiss.serialize_index(self._index).tofile(temporary)

    def save_empty(self, path: Path) -> None:
        """Write the trained index without its vectors, as the ecosystem keeps beside the full one."""
        import faiss

        empty = faiss.clone_index(self._index)
        empty.reset()
        with replacing(path) as temporary:
            faiss.serialize_index(empty).tofile(temporary)

    def search(self, content: FloatArray) -> FloatArray:
        """Replace every frame of content (N, C) by a mixture of its nearest stored vectors: (N, C).

        A frame that finds none keeps its own features. CheckpointError if the widths differ.
        """
        if content.shape[1] != self.width:
            raise CheckpointError(
                f"{self.name} holds vectors of {self.width} features, but this voice's encoder makes "
                f"{content.shape[1]}. Use the index that was made with the voice, or none."
            )
        retrieved = content.astype(np.float32)
        for start in range(0, len(content), SEARCH_FRAMES):
            wanted = retrieved[start : start + SEARCH_FRAMES]
            scores, ids, found = self._index.search_and_reconstruct(wanted, NEIGHBOURS)  # [N, K], [N, K], [N, K, C]
            found[ids < 0] = 0.0
            mixed = np.einsum("nk,nkc->nc", neighbour_weights(scores, ids), found)
            alone = (ids < 0).all(axis=1)
            wanted[~alone] = mixed[~alone]
        return retrieved


def _collect(features: Iterable[FloatArray], seed: int) -> tuple[FloatArray, int]:
    """Stack arrays (N, C) to (M, C) and count the vectors; of more than MAX_VECTORS a uniform random choice is kept."""
    rng = np.random.default_rng(seed)
    parts: list[FloatArray] = []
    kept: FloatArray | None = None
    seen = 0
    for block in features:
        vectors = _checked(block, parts[0].shape[1] if parts else None)
        room = max(MAX_VECTORS - seen, 0)
        if room:
            parts.append(vectors[:room])
        rest = vectors[room:]
        if len(rest):
            # Reservoir sampling: the i-th vector stays with probability MAX_VECTORS / i, in a random place.
            held: FloatArray = np.concatenate(parts) if kept is None else kept
            place = rng.integers(0, np.arange(len(vectors) - len(rest), len(vectors)) + seen + 1)
            held[place[place < MAX_VECTORS]] = rest[place < MAX_VECTORS]
            kept = held
        seen += len(vectors)
    if seen == 0:
        raise ConfigError("There are no content features to build an index from. Extract features first.")
    return np.concatenate(parts) if kept is None else kept, seen


def _checked(block: FloatArray, width: int | None) -> FloatArray:
    """Return the block (N, C) as contiguous float32; CheckpointError if it does not fit the ones before."""
    if block.ndim != 2 or (width is not None and block.shape[1] != width):
        raise CheckpointError(
            f"Content features of shape {block.shape} do not fit the others ({width} features per frame). "
            "Extract the features again, all with one encoder."
        )
    if not np.isfinite(block).all():
        raise CheckpointError("Content features contain numbers that are not finite. Extract the features again.")
    return np.ascontiguousarray(block, np.float32)


def _reduce(vectors: FloatArray, n_centres: int, seed: int) -> FloatArray:
    """Replace vectors (N, C) by the centres of a k-means clustering: (n_centres, C)."""
    import faiss

    kmeans: Any = faiss.Kmeans(vectors.shape[1], n_centres, niter=KMEANS_ROUNDS, seed=seed, min_points_per_centroid=1)
    kmeans.train(vectors)
    centres: FloatArray = kmeans.centroids
    return centres
