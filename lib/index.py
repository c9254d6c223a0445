"""FeatureIndex: nearest-neighbour search over the content features of a voice's recordings (faiss)."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lib.errors import CheckpointError, ConfigError, MissingFileError
from lib.files import replacing
from lib.index_check import FileBytes, check_structure
from lib.machine import machine_errors
from lib.typing import FloatArray, IntArray

if TYPE_CHECKING:
    import faiss

logger = logging.getLogger(__name__)

Doubles = npt.NDArray[np.float64]

NEIGHBOURS = 8  # stored features mixed for each frame
MIN_SCORE = 1e-12  # squared distance; avoids a division by zero for an exact match
NPROBE = 1  # cells searched; stored in the file
VECTORS_PER_CELL = 39  # fewer would make faiss warn that cells are badly trained
ADD_BATCH = 8192  # vectors added or read at a time
SEARCH_FRAMES = 512  # frames per search
MAX_VECTORS = 200_000  # more vectors are reduced to ...
N_CENTRES = 10_000  # ... this many k-means centres
KMEANS_ROUNDS = 4  # at 768 features these take some four minutes on two cores


def index_names(experiment: str, family: str, n_cells: int) -> tuple[str, str]:
    """Return the file names of an experiment's index: (trained but empty, with vectors). Retrieval uses the second."""
    name = f"IVF{n_cells}_Flat_nprobe_{NPROBE}_{experiment}_{family}.index"
    return f"trained_{name}", f"added_{name}"


def count_cells(n_vectors: int) -> int:
    """Return the number of cells that RVC uses for this number of vectors."""
    return max(1, min(int(16 * n_vectors**0.5), n_vectors // VECTORS_PER_CELL))


def neighbour_weights(scores: FloatArray, ids: IntArray) -> FloatArray:
    """Compute the weights of neighbours from squared distances (N, K) and ids (N, K), -1 = none: (N, K), rows sum to 1.

    A row without neighbours is all zero.
    """
    weights: Doubles = np.where(ids >= 0, 1.0 / np.maximum(scores.astype(np.float64), MIN_SCORE) ** 2, 0.0)
    total = weights.sum(axis=1, keepdims=True)
    normalised: FloatArray = (weights / np.where(total > 0, total, 1.0)).astype(np.float32)
    return normalised


class FeatureIndex:
    """A search index over content features: `len(index)` vectors with `width` features each."""

    def __init__(self, index: "faiss.IndexIVFFlat", name: str) -> None:
        self._index = index
        self.name = name
        self.width = int(index.d)
        self.n_cells = int(index.nlist)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def vectors(self) -> Iterator[FloatArray]:
        """Yield the stored vectors in order, in blocks (N, C)."""
        for start in range(0, len(self), ADD_BATCH):
            block: FloatArray = self._index.reconstruct_n(start, min(ADD_BATCH, len(self) - start))
            yield block

    @classmethod
    def build(cls, features: Iterable[FloatArray], seed: int = 0, max_vectors: int | None = None) -> "FeatureIndex":
        """Build an index from arrays (N, C) of content features. The same input and seed give the same index.

        At most MAX_VECTORS vectors are held in memory; if there are more, a random sample of that size is clustered
        into N_CENTRES centroids. If `max_vectors` is given, a larger number of vectors is reduced to that many
        centroids, for a smaller file. Raises ConfigError if there are no features, and CheckpointError if they differ
        in dimension or are not finite.
        """
        import faiss

        vectors, n_seen = _collect(features, seed)
        target = N_CENTRES if n_seen > MAX_VECTORS else len(vectors)
        target = min(target, max_vectors or target)
        if target < len(vectors):
            logger.info("%d vectors are reduced to %d centres", n_seen, target)
            vectors = _reduce(vectors, target, seed)
        n_cells = count_cells(len(vectors))
        index: Any = faiss.index_factory(vectors.shape[1], f"IVF{n_cells},Flat")
        index.nprobe = NPROBE
        index.cp.seed = seed
        index.cp.min_points_per_centroid = 1  # count_cells ensures this, except below 39 vectors
        index.train(vectors)
        for start in range(0, len(vectors), ADD_BATCH):
            index.add(vectors[start : start + ADD_BATCH])
        return cls(index, "a new index")

    @classmethod
    def load(cls, path: Path) -> "FeatureIndex":
        """Read an index file.

        Raises MissingFileError if it does not exist, CheckpointError if it is damaged, empty or not an IVF,Flat index,
        and MachineError if the disk cannot be read.
        """
        import faiss

        if not path.exists():
            raise MissingFileError(path, "Specify the path of an index file, or convert without one.")
        try:
            with machine_errors(reading=path), path.open("rb") as file:
                if not file.read(1):
                    raise CheckpointError("{path} is empty, so it is damaged. Build the index again.", path=path)
                check_structure(path, FileBytes(file))
                file.seek(0)
                reader = faiss.PyCallbackIOReader(file.read)  # type: ignore[attr-defined]  # defined at run time
                index: Any = faiss.read_index(reader)
        except RuntimeError as error:
            raise CheckpointError("{path} is not an index that can be read. Build it again.", path=path) from error
        loaded = cls(index, str(path))
        if not all(np.isfinite(block).all() for block in loaded.vectors()):
            raise CheckpointError("{path} contains numbers that are not finite. Build the index again.", path=path)
        return loaded

    def save(self, path: Path) -> None:
        """Write the index file atomically. Raises RevoiceError if it cannot be written."""
        import faiss

        with replacing(path) as temporary:
            temporary.write_bytes(faiss.serialize_index(self._index).data)  # tofile() ignores errors at the end

    def save_empty(self, path: Path) -> None:
        """Write the trained index without its vectors, which RVC stores next to the full one."""
        import faiss

        empty = faiss.clone_index(self._index)
        empty.reset()
        with replacing(path) as temporary:
            temporary.write_bytes(faiss.serialize_index(empty).data)

    def search(self, content: FloatArray) -> FloatArray:
        """Replace each frame of content (N, C) with a weighted mean of its nearest stored vectors: (N, C).

        A frame without neighbours keeps its own features. Raises CheckpointError if the dimensions differ.
        """
        if content.shape[1] != self.width:
            raise CheckpointError(
                "{path} contains vectors of {index_width} features, but this voice's encoder computes {content_width}. "
                "Use the index that was built with the voice, or none.",
                path=self.name,
                index_width=self.width,
                content_width=content.shape[1],
            )
        retrieved = content.astype(np.float32)
        for start in range(0, len(content), SEARCH_FRAMES):
            frames = retrieved[start : start + SEARCH_FRAMES]
            scores, ids, neighbours = self._index.search_and_reconstruct(
                frames, NEIGHBOURS
            )  # [N, K], [N, K], [N, K, C]
            neighbours[ids < 0] = 0.0
            mixed = np.einsum("nk,nkc->nc", neighbour_weights(scores, ids), neighbours)
            alone = (ids < 0).all(axis=1)
            frames[~alone] = mixed[~alone]
        return retrieved


def _collect(features: Iterable[FloatArray], seed: int) -> tuple[FloatArray, int]:
    """Stack arrays (N, C) into (M, C), a uniform random sample of at most MAX_VECTORS, and count all vectors."""
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
            # Reservoir sampling: the i-th vector is kept with probability MAX_VECTORS / i, at a random position.
            held: FloatArray = np.concatenate(parts) if kept is None else kept
            place = rng.integers(0, np.arange(len(vectors) - len(rest), len(vectors)) + seen + 1)
            held[place[place < MAX_VECTORS]] = rest[place < MAX_VECTORS]
            kept = held
        seen += len(vectors)
    if seen == 0:
        raise ConfigError("There are no content features to build an index from. Extract features first.")
    return np.concatenate(parts) if kept is None else kept, seen


def _checked(block: FloatArray, width: int | None) -> FloatArray:
    """Return the block (N, C) as contiguous float32.

    Raises CheckpointError if it has another dimension or values that are not finite.
    """
    if block.ndim != 2 or (width is not None and block.shape[1] != width):
        raise CheckpointError(
            "Content features of shape {shape} do not match the others ({width} features per frame). Extract the "
            "features again, all with one encoder.",
            shape=block.shape,
            width=width,
        )
    if not np.isfinite(block).all():
        raise CheckpointError("Content features contain numbers that are not finite. Extract the features again.")
    return np.ascontiguousarray(block, np.float32)


def _reduce(vectors: FloatArray, n_centres: int, seed: int) -> FloatArray:
    """The k-means centres (n_centres, C) of vectors (N, C)."""
    import faiss

    kmeans: Any = faiss.Kmeans(vectors.shape[1], n_centres, niter=KMEANS_ROUNDS, seed=seed, min_points_per_centroid=1)
    kmeans.train(vectors)
    centres: FloatArray = kmeans.centroids
    return centres
